"""Files for whoever keeps a deployment running: units for systemd, and a page for the server's operator."""

from __future__ import annotations

import getpass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from fedpriv.deploy.layout import ServerFolder
from fedpriv.deploy.processes import tool
from fedpriv.files import replacing, writing

__all__ = ["write_node_unit", "write_operator_files"]

_UNIT = """\
[Unit]
Description={what}
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
User={user}
WorkingDirectory={folder}
ExecStart={command}
Restart=on-failure
RestartSec=10
KillSignal=SIGTERM
TimeoutStopSec=60
UMask=0077
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=full

[Install]
WantedBy=multi-user.target
"""


def write_operator_files(folder: ServerFolder) -> tuple[Path, Path]:
    """Write the page for the operator and the unit of the server; return where they are.

    Raises
    ------
    ComponentFailure
        They cannot be written.
    """
    place = folder.path.resolve()
    page, unit = folder.path / "README.md", folder.path / f"fedpriv-{place.name}.service"
    command = f"{tool('fedpriv')} deploy serve {_quoted(place)}"
    _write(unit, _unit(f"fedpriv server of {place.name}", place.parent, command))
    words = {"name": folder.path.name, "unit": f"{place.name}/{unit.name}", "unit_name": unit.name}
    template = files(__package__).joinpath("operator.md.j2").read_text(encoding="utf-8")
    _write(page, Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(template).render(words))  # noqa: S701
    return page, unit


def write_node_unit(file: Path, name: str) -> Path:
    """Write the unit of a node beside its owner's file; return where it is.

    Raises
    ------
    ComponentFailure
        It cannot be written.
    """
    unit = file.with_name(f"fedpriv-{name}.service")
    command = f"{tool('fedpriv')} deploy node {_quoted(file.resolve())}"
    _write(unit, _unit(f"fedpriv node {name}", file.resolve().parent, command))
    return unit


def _unit(what: str, folder: Path, command: str) -> str:
    place = str(folder).replace("%", "%%")
    return _UNIT.format(what=what, user=getpass.getuser(), folder=place, command=command)


def _quoted(path: Path) -> str:
    """Return a path as a word of a command in a unit, where a percent sign begins a specifier."""
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"'


def _write(path: Path, text: str) -> None:
    with writing(path), replacing(path, private=True) as file:
        file.write(text.encode())
