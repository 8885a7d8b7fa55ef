"""Pages from templates: self-contained, no script, no request, figures inlined; written atomically."""

from __future__ import annotations

import base64
from importlib.resources import files
from pathlib import Path
from typing import Any

from fedpriv.errors import ComponentFailure
from fedpriv.files import replacing

__all__ = ["fill", "inlined", "write_page"]


def fill(template: str, **values: Any) -> str:
    """Return a template of this package with its values, which are text and not HTML."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    loader = FunctionLoader(lambda name: files("fedpriv.report").joinpath(name).read_text(encoding="utf-8"))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=loader
    )
    return environment.get_template(template).render(values)


def inlined(image: Path) -> str:
    """Return an SVG file as the address of an image."""
    return "data:image/svg+xml;base64," + base64.b64encode(image.read_bytes()).decode("ascii")


def write_page(target: Path, page: str) -> None:
    """Write a page for its owner alone: it shows scores of single tasks.

    Raises
    ------
    ComponentFailure
        The file cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target, private=True) as file:
            file.write(page.encode("utf-8", "surrogateescape"))  # paths, where the locale is not UTF-8
    except OSError as error:
        raise ComponentFailure(
            f"the report cannot be written to {target} ({error.strerror}): choose another file."
        ) from None
