"""Writes a new project into a folder."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from fedpriv.errors import InputError
from fedpriv.files import writing
from fedpriv.project.people import people_as_csv

__all__ = ["write_project"]

_TEMPLATES = ("README.md", "my.toml", "mynet.py", "my.ipynb", "test_my.py")
SCHEMA = "fedpriv.schema.json"


def write_project(folder: Path, schema: dict[str, object]) -> list[Path]:
    """Write a project; return its files.

    Parameters
    ----------
    folder : Path
        Where; it must be empty, or not be there yet.
    schema : dict
        Of configurations, for editors.

    Raises
    ------
    InputError
        Something is there already, or nothing can be written there.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty, or no folder; name a new folder for the project.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be made ({error.strerror}); name another one.") from None
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701 (no HTML)
    texts = {
        name: environment.from_string(files(__package__).joinpath(f"{name}.j2").read_text(encoding="utf-8")).render(
            name=folder.resolve().name, schema=SCHEMA
        )
        for name in _TEMPLATES
    }
    texts |= {"people.csv": people_as_csv(), SCHEMA: f"{json.dumps(schema, indent=1)}\n"}
    for name, text in texts.items():
        with writing(folder / name):
            (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]
