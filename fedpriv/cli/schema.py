"""``fedpriv schema``: a JSON schema of the TOML files, for editors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fedpriv.cli.options import path_option, say

__all__ = ["schema"]


def schema(
    out: Annotated[Path | None, path_option("File to write; the schema is printed unless given.")] = None,
) -> None:
    """Print the JSON schema of the TOML files, by which an editor completes keys and underlines unknown ones."""
    import json

    from fedpriv.files import writing
    from fedpriv.schema import config_schema

    text = json.dumps(config_schema(), indent=1)
    if out is None:
        say(text)
        return
    with writing(out):
        out.write_text(f"{text}\n", encoding="utf-8")
    say(f'wrote {out}; begin a TOML file beside it with the line "#:schema ./{out.name}"')
