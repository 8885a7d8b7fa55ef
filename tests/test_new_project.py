"""``fedpriv new``: a project that runs at once, in a folder outside of the repository, word for word as it says."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from test_own_code import fresh  # noqa: F401 (a fixture that every test here uses)

pytestmark = pytest.mark.long
COMMANDS = Path(sys.executable).parent
FEW = ["--set", "strategy.rounds=2", "--set", "client.epochs=1", "--set", "client.final_epochs=1"]
ENVIRONMENT = {**os.environ, "PATH": f"{COMMANDS}{os.pathsep}{os.environ['PATH']}"}


def call(words: list[str], folder: Path) -> str:
    """Run a command as a person would, in a folder; return what it printed."""
    known = {"fedpriv": [sys.executable, "-m", "fedpriv"], "pytest": [sys.executable, "-m", "pytest", "-q"]}
    done = subprocess.run(
        [*known[words[0]], *words[1:]], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def here(fedpriv: Any, monkeypatch: Any) -> Any:
    """Run a command in a folder, in this process, which takes no seconds to start; return what it printed."""

    def call_here(words: list[str], folder: Path) -> str:
        monkeypatch.chdir(folder)
        code, out, err = fedpriv(*words[1:])
        assert code == 0, err
        return str(out)

    return call_here


@pytest.fixture(scope="module")
def project(tmp_path_factory: Any) -> Path:
    place: Path = tmp_path_factory.mktemp("home")
    said = call(["fedpriv", "new", "sleep"], place)
    assert said.endswith("Now: cd sleep && fedpriv run my.toml\n")
    return place / "sleep"


def test_every_command_of_its_page_works(project: Path, here: Any) -> None:
    """The run, the sweep, the report and the test; what was learned is better than chance and keeps its promise.

    The run and the test in processes of their own.
    """
    page = (project / "README.md").read_text()
    (block,) = re.findall(r"```\n(.*?)```", page, re.DOTALL)
    commands = [shlex.split(line) for line in block.splitlines()]
    assert [words[:2] for words in commands] == [
        *[["fedpriv", word] for word in ("run", "sweep", "report", "models", "predict")],
        ["pytest"],
    ]
    short = ["--set", "run.grid=in-process", "--set", "run.baseline=false"]
    for words in commands:
        few = [*FEW, "--jobs", "1"] if words[1:2] == ["sweep"] else []
        how = call if words[:2] == ["fedpriv", "run"] or words[0] == "pytest" else here
        said = how([*words, *([*short, *few] if words[1:2] in (["run"], ["sweep"]) else [])], project)
        if words[1:2] == ["predict"]:
            rows = len((project / "people.csv").read_text().splitlines())
            assert (len(said.splitlines()), set(said.split())) == (rows, {"prediction", "0", "1"})
    assert (project / "models/models.safetensors").is_file()
    summary = json.loads((project / "runs/my/summary.json").read_text())
    assert summary["guarantee"]["epsilon"] <= 4.0
    assert summary["num_tasks"] == 200
    assert summary["diagnostics"]["accuracy"]["personal"] > 0.6
    kept = tomllib.loads((project / "runs/my/config.toml").read_text())
    assert set(kept["code"]["modules"]) == {"mynet"}
    assert (project / "runs/sweeps/my/sweep.csv").exists()
    for name in re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE):
        assert (project / name).is_file(), name


def test_the_notebook_runs_from_top_to_bottom(project: Path) -> None:
    notebook = json.loads((project / "my.ipynb").read_text())
    assert (notebook["nbformat"], notebook["cells"][0]["source"][0]) == (4, "# sleep\n")
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) == 3
    text = "\n".join(code).replace("rounds=20", "rounds=2").replace("epochs=30", "epochs=1")
    done = subprocess.run([sys.executable, "-"], input=text, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Joint differential privacy" in done.stdout


def test_its_file_is_known_to_editors(project: Path) -> None:
    first = (project / "my.toml").read_text().splitlines()[0]
    schema = json.loads((project / first.removeprefix("#:schema ./")).read_text())
    config = tomllib.loads((project / "my.toml").read_text())
    Draft202012Validator(schema).validate(config)
    for section, values in config.items():
        if section != "model":  # whose keys are those of its own class
            for key in values:
                wrong = {**values, f"{key}s": values[key]}
                assert not Draft202012Validator(schema).is_valid({**config, section: wrong}), (section, key)


def test_its_lines_for_real_people_spend_a_budget(project: Path, here: Any, tmp_path: Path) -> None:
    """Uncommented, as the page says."""
    lines = (project / "my.toml").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("declared"))
    text = "\n".join([*lines[:start], *(line.removeprefix("# ") for line in lines[start + 1 :])])
    text = text.replace('"people.csv"', json.dumps(str(project / "people.csv"))).replace("rounds = 20", "rounds = 1")
    (tmp_path / "real.toml").write_text(text)
    (tmp_path / "mynet.py").write_text((project / "mynet.py").read_text())
    here(["fedpriv", "run", "real.toml", "--set=run.grid=in-process", "--set=run.report=false"], tmp_path)
    assert "epsilon" in here(["fedpriv", "ledger", "show", "sleep", "--ledger", "sleep.sqlite"], tmp_path)


def test_nothing_is_written_over(fedpriv: Any, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        code, _, err = fedpriv("new", name)
        assert (code, err) == (2, f"fedpriv: {name} is not empty, or no folder; name a new folder for the project.\n")
    assert [one.name for one in (tmp_path / "full").iterdir()] == ["mine.txt"]
    code, _, err = fedpriv("new", "file/inside")
    assert (code, err.count("\n")) == (2, 1)
    code, out, _ = fedpriv("new", "fresh", "--json")
    assert code == 0
    assert sorted(Path(file).name for file in json.loads(out)["files"]) == sorted(
        one.name for one in (tmp_path / "fresh").iterdir()
    )
