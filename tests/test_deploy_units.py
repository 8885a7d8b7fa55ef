"""What an operator is handed: units that systemd takes, and a page that names the files there are."""

from __future__ import annotations

import configparser
import re
import shlex
import stat
import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from test_deploy_node import OWNER


@pytest.fixture
def units(fedpriv: Any, tmp_path: Path) -> list[Path]:
    """Those of a server and of a node, in a folder whose name is hard to write down."""
    place = tmp_path / 'a "quoted" $HOME %h folder'
    place.mkdir()
    code, said, _ = fedpriv("deploy", "init", str(place / "lab"), "pmtl", "--host", "localhost")
    assert code == 0
    assert "README.md says what each file is" in said.replace("\n", " ")
    text = OWNER.format(top="", policy="", allow="").replace("protected", "benchmark")
    (place / "clinic.toml").write_text(
        text.replace('"digits"', '"digits"\npartition = "dirichlet"\nalpha = 0.3\ntasks = 4')
    )
    code, said, _ = fedpriv("deploy", "request", str(place / "clinic.toml"))
    assert code == 0
    assert "its unit for systemd" in said
    return [place / "lab" / "fedpriv-lab.service", place / "fedpriv-a.service"]


def test_units_start_what_they_should_and_again_after_a_failure(units: list[Path]) -> None:
    for unit, last in zip(units, ("lab", "clinic.toml"), strict=True):
        found = configparser.ConfigParser(interpolation=None, strict=False)
        found.optionxform = str  # type: ignore[assignment,method-assign]
        found.read_string(unit.read_text())
        service = found["Service"]
        words = shlex.split(service["ExecStart"].replace("%%", "%").replace("$$", "$"))
        assert words[1:3] == ["deploy", "serve" if last == "lab" else "node"]
        assert Path(words[3]).exists(), "also with signs that systemd reads otherwise"
        assert Path(words[3]).name == last
        assert (service["Restart"], service["UMask"]) == ("on-failure", "0077")
        assert stat.S_IMODE(unit.stat().st_mode) == 0o600


@pytest.mark.skipif(which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_has_nothing_against_the_units(units: list[Path]) -> None:
    for unit in units:
        done = subprocess.run(["systemd-analyze", "verify", "--recursive-errors=no", str(unit)], capture_output=True)
        assert (done.returncode, done.stderr.decode()) == (0, "")


def test_the_operator_s_page_names_the_files_that_are_there(units: list[Path]) -> None:
    folder = units[0].parent
    page = (folder / "README.md").read_text()
    named = re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE)
    paths = {path for cell in named for path in re.findall(r"`([^`]+)`", cell)}
    later = {path for path in paths if path.startswith("ledger.sqlite")}
    assert all((folder / path).exists() for path in paths - later)
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    said = {path for path in there if any(path == one or path.startswith(one) for one in paths)}
    assert there - said == {"README.md", "fedpriv-lab.service"}
    assert all(
        f"fedpriv deploy {word}" in page for word in ("serve", "approve", "remove-node", "run", "status", "renew")
    )
