"""Files for whoever keeps a deployment running: units for systemd, and a page for the server's operator."""

from __future__ import annotations

import getpass
from pathlib import Path

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

_README = """\
# The server of a deployment

Everything of this server is in this folder, and it is for its owner alone. Commands are typed in the folder above it.

| file | what it is | who may have it |
| --- | --- | --- |
| `pki/ca.crt` | certificate of this deployment's authority | every node; hand it over on a way that both trust |
| `pki/ca.key` | its key: makes servers that nodes believe | nobody; `deploy renew` needs it |
| `pki/server.crt`, `pki/server.key` | what this server proves itself by | nobody gets the key |
| `pki/runs.secret` | who knows it may serve runs | nobody |
| `deploy.toml` | names, ports and limits | |
| `plan.toml` | what a run does | nodes are told its model and client |
| `members.json` | nodes, their public keys, and which tasks they host | holds names of tasks |
| `ledger.sqlite`, `ledger.sqlite.head` | what was spent; only for data of people | |
| `runs/` | run folders | `private/` in them is for the experimenter |
| `state/`, `logs/` | of Flower, the front and the last run | |

- Serve: `fedpriv deploy serve {name}`, or `{unit}` as a service (copy it to `/etc/systemd/system/`, then
  `systemctl enable --now {unit_name}`).
- Let a node in: its owner types `fedpriv deploy request NODE.toml` and sends `NAME.request.json`; you type
  `fedpriv deploy approve {name} NAME.request.json`, between runs. Ask the owner by telephone whether the key is his.
- Take a node out, also one whose key was lost: `fedpriv deploy remove-node {name} NAME`. A new key is a new request.
- Run: `fedpriv deploy run {name} --out {name}/runs/first`. After a crash the same with `--resume`.
- Look: `fedpriv deploy status {name}` for nodes, rounds, epsilon and troubles; `fedpriv deploy doctor {name}` for the
  set-up.
- A certificate that ends, or another name of this machine: put the name into `deploy.toml`, then
  `fedpriv deploy renew {name}`.
- Back up this folder as a whole, when no run is at work. **Never put an older ledger or an older run folder in the
  place of a newer one**: charges and noise that came after it would be forgotten. If a copy is all that is left,
  start new runs only.
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
    _write(page, _README.format(**words))
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
