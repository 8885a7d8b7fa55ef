"""The page "Your own CSV in ten minutes", as it stands, in a new folder, with fedpriv installed from its wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/own-data.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: Any) -> Path:
    """Return the programs of an environment in which the wheel is installed, beside the packages that it needs."""
    place: Path = tmp_path_factory.mktemp("installed")
    for name in ("fedpriv", "strategies", "clients", "scenarios"):
        shutil.copytree(ROOT / name, place / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, place / "source" / name)
    pip = [sys.executable, "-m", "pip"]
    build = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(place), str(place / "source")]
    subprocess.run(build, check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place / "env")], check=True)
    python = place / "env/bin/python"
    (wheel,) = place.glob("*.whl")
    install = [*pip, "--python", str(python), "install", "-q", "--no-deps", "--disable-pip-version-check", str(wheel)]
    subprocess.run(install, check=True)
    (packages,) = place.glob("env/lib/*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return python.parent


@pytest.mark.long
def test_the_page_works_as_it_stands(installed: Path, tmp_path: Path) -> None:
    files = dict(re.findall(r"^`([\w.]+)`\n```\w+\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
    assert set(files) == {"make_people.py", "mynet.py", "sleep.toml", "new.csv", "sleep.py"}
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    environment = {**os.environ, "PATH": f"{installed}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "200"}
    environment.pop("FEDPRIV_DATA", None)
    said = {}
    for command in "".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)).splitlines():
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        said[" ".join(command.split()[:2])] = done.stdout
    assert len(said) == 8
    assert "people: 300" in said["fedpriv data"]
    assert "epsilon = 2, delta = 1e-05" in said["fedpriv run"]
    assert "are no worse than training alone" in (tmp_path / "runs/sleep/private/sharing.txt").read_text()
    kept = (tmp_path / "runs/sleep/report.html").read_text()
    assert "p007" not in said["fedpriv run"] + kept
    early, late = re.findall(r"\b(yes|no)\b", said["fedpriv predict"])
    assert (early, late) == ("yes", "no")
    assert "Joint differential privacy" in said["python sleep.py"]
    assert (tmp_path / "models").stat().st_mode & 0o777 == 0o700
