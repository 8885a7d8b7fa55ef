"""Code of users' own, outside of the repository: named in a TOML file, found beside it, kept with its SHA-256."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message
from helpers import toy_tasks

from fedpriv import ComponentFailure, Experiment
from fedpriv.clients import GlobalModel
from fedpriv.config import build_experiment, read_own
from fedpriv.errors import OwnCodeError
from fedpriv.own_code import finding, sources
from fedpriv.runs.checkpoint import CheckpointStore
from fedpriv.runtime.apps import client_app
from fedpriv.runtime.grid import InProcessGrid
from fedpriv.runtime.ray_grid import RayGrid
from fedpriv.runtime.wire import pack
from fedpriv.strategies import Billboard

MYNET = """
from torch import nn
from parts.blocks import first

class MyNet(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), *first(64, width), nn.Linear(width, 10))

    def forward(self, inputs):
        return self.net(inputs)
"""
BLOCKS = """
from torch import nn

def first(inputs, width):
    return [nn.Linear(inputs, width), nn.ReLU()]
"""
MYFL = """
from typing import ClassVar
from fedpriv.clients import MAML, MeanRegularized

class Ditto(MeanRegularized):
    keeps_parts: ClassVar[bool] = True
    pull: float = 1.0

    def train(self, learner, billboard, state, cohort, key):
        state, update = super().train(learner, billboard, state, cohort, key)
        return state, {name: self.pull * value for name, value in update.items()}

class Meta(MAML):
    pass
"""
MYSTRAT = """
from fedpriv.strategies import Billboard

class Mine(Billboard):
    pass
"""
MY = """
[data]
name = "digits"
partition = "iid"
tasks = 12

[model]
name = "mynet:MyNet"
width = 6

[client]
name = "myfl:Ditto"
pull = 1.0

[strategy]
name = "mystrat:Mine"
clipping_norm = 0.5
sampling_rate = 0.5
rounds = 2
noise_multiplier = 1.0

[run]
grid = "in-process"
report = false
baseline = false
"""
BUILT_IN = {"mynet:MyNet": "mlp", "width": "hidden", "myfl:Ditto": "mean-regularized", "mystrat:Mine": "billboard"}


def forget() -> None:
    """Be a process that has imported nothing of anybody's own."""
    mine = {source.module for source in sources.imported()}
    for name in [name for name in sys.modules if name in mine or name.partition(".")[0] == "parts"]:
        del sys.modules[name]
    sources._imported.clear()
    finding._loaded.clear()
    sys.path[:] = [place for place in sys.path if Path(place) not in finding._places]
    finding._places.clear()


@pytest.fixture(autouse=True)
def fresh(monkeypatch: Any) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    forget()
    yield
    forget()


def lay_out(folder: Path, toml: str = MY) -> Path:
    """Write a project; return its TOML file."""
    (folder / "parts").mkdir(parents=True)
    for name, text in {
        **{"mynet.py": MYNET, "parts/blocks.py": BLOCKS, "myfl.py": MYFL, "mystrat.py": MYSTRAT, "my.toml": toml},
    }.items():
        (folder / name).write_text(text)
    return folder / "my.toml"


@pytest.fixture
def mine(tmp_path_factory: Any) -> Path:
    return lay_out(tmp_path_factory.mktemp("project") / "mine")


def scores(run: Path) -> Any:
    found = json.loads((run / "summary.json").read_text())
    return found["diagnostics"]["per_task"], found["guarantee"]


def billboard(run: Path, round: int = 2) -> dict[str, Any]:
    (found,) = CheckpointStore(run / "checkpoints").load(round).billboards.values()
    return found


def published(run: Path) -> bytes:
    """The bits of the last billboard; a module of one's own gives its arrays other names."""
    return b"".join(value.tobytes() for value in billboard(run).values())


def test_own_code_runs_as_fedprivs_own_that_does_the_same(fedpriv: Any, mine: Path, tmp_path: Path) -> None:
    """From a folder that is not the file's; what a run keeps says where its code was, and runs again as it is.

    That it runs on every grid is seen in test_grids.py.
    """
    text = MY.replace("pull = 1.0\n", "")
    for own, built_in in BUILT_IN.items():
        text = text.replace(own, built_in)
    (tmp_path / "same.toml").write_text(text)
    code, _, err = fedpriv("run", "same.toml", "--reproduce", "3", "--out", "same")
    assert code == 0, err
    assert not [source.module for source in sources.imported()]
    code, _, err = fedpriv("run", str(mine), "--reproduce", "3")
    assert code == 0, err
    config = tomllib.loads((tmp_path / "runs/my/config.toml").read_text())
    assert (config["model"], config["client"]["pull"]) == ({"name": "mynet:MyNet", "width": 6}, 1.0)
    assert config["code"]["path"] == [str(mine.parent)]
    for name, file in (("mynet", "mynet.py"), ("parts.blocks", "parts/blocks.py"), ("mystrat", "mystrat.py")):
        kept = config["code"]["modules"][name]
        assert kept["file"] == str(mine.parent / file)
        assert kept["sha256"] == hashlib.sha256((mine.parent / file).read_bytes()).hexdigest()
    assert set(config["code"]["modules"]) == {"mynet", "parts.blocks", "myfl", "mystrat"}
    code, _, err = fedpriv("run", "runs/my/config.toml", "--out", "again")
    assert code == 0, err
    assert (tmp_path / "again/config.toml").read_text() == (tmp_path / "runs/my/config.toml").read_text()
    for name in ("runs/my", "again"):
        assert published(tmp_path / name) == published(tmp_path / "same")
        assert scores(tmp_path / name) == scores(tmp_path / "same")
    assert fedpriv("report", "again", "same", "--out", "both.html")[0] == 0
    about = json.loads((tmp_path / "again/checkpoints/about.json").read_text())
    assert about == {"scenario": "my.toml", "preset": "my"}


def test_a_run_s_configuration_runs_again_as_it_is(fedpriv: Any, mine: Path, tmp_path: Path) -> None:
    """It holds all defaults and says where its code was; from another folder the same is run, to the bit."""
    mine.write_text(MY.replace("pull = 1.0\n", ""))
    code, _, err = fedpriv("run", str(mine), "--reproduce", "3", "--out", "first")
    assert code == 0, err
    text = (tmp_path / "first/config.toml").read_text()
    config = tomllib.loads(text)
    assert config["client"]["pull"] == 1.0
    assert config["code"]["path"] == [str(mine.parent)]
    assert set(config["code"]["modules"]) == {"mynet", "parts.blocks", "myfl", "mystrat"}
    (tmp_path / "elsewhere").mkdir()
    os.chdir(tmp_path / "elsewhere")
    code, _, err = fedpriv("run", "../first/config.toml", "--out", "again")
    assert code == 0, err
    assert Path("again/config.toml").read_text() == text
    assert published(Path("again")) == published(tmp_path / "first")


def test_a_file_of_ones_own_hides_no_library(mine: Path) -> None:
    """Another module may import a library by a name that somebody's file has."""
    (mine.parent / "filecmp.py").write_text("")
    build_experiment(read_own(mine))
    assert str(mine.parent) in sys.path
    found = PathFinder.find_spec("filecmp")
    assert found is not None
    assert found.origin != str(mine.parent / "filecmp.py")


def test_what_is_typed_is_used(fedpriv: Any, mine: Path, tmp_path: Path) -> None:
    """The settings of each reach it, and the class that is named is the one that works."""
    for name, word in (("one", "client.pull=1.0"), ("none", "client.pull=0.0"), ("wide", "model.width=9")):
        code, _, err = fedpriv("run", str(mine), "--reproduce", "3", f"--set={word}", "--out", name)
        assert code == 0, err
    assert published(tmp_path / "none") != published(tmp_path / "one")
    assert len(published(tmp_path / "wide")) > len(published(tmp_path / "one"))
    code, _, err = fedpriv("run", "pmtl", "--preset", str(mine), "--reproduce", "3", "--out", "preset")
    assert code == 0, err
    assert published(tmp_path / "preset") == published(tmp_path / "one")
    assert json.loads((tmp_path / "preset/checkpoints/about.json").read_text())["preset"] == "my"
    lay_out(tmp_path / "here")
    os.chdir(tmp_path / "here")
    forget()
    quick = ["strategy.rounds=1", "data.tasks=12", "run.grid=in-process", "run.report=false"]
    words = ["run", "pmtl", "--set=model.name=mynet:MyNet", *(f"--set={word}" for word in quick), "--out", "run"]
    code, _, err = fedpriv(*words)
    assert code == 0, err
    config = tomllib.loads(Path("run/config.toml").read_text())
    assert config["code"]["path"] == [str(tmp_path / "here")], "the current folder, where no file says another"


def test_code_that_was_changed_does_not_go_on_with_a_run(fedpriv: Any, mine: Path, tmp_path: Path) -> None:
    words = ["run", str(mine), "--out", "run"]
    assert fedpriv(*words)[0] == 0
    (tmp_path / "run/summary.json").unlink()
    blocks = mine.parent / "parts/blocks.py"
    blocks.write_text(f"{BLOCKS}# not the same\n")
    code, _, err = fedpriv(*words, "--resume")
    assert code == 2
    assert err == (
        f"fedpriv: {blocks} was changed after this process imported it; start a new process (in a notebook: "
        "restart the kernel).\n"
    )
    forget()
    refused = (
        f"fedpriv: {blocks} is not what this run was started with, so what it says of itself would be untrue; put the "
        "file back as it was, or start a new run in another folder.\n"
    )
    assert fedpriv(*words, "--resume") == (2, "", refused)
    assert fedpriv("attack", "run") == (2, "", refused)
    code, _, err = fedpriv("run", "run/config.toml", "--out", "other")
    assert code == 0, err
    assert err.splitlines()[0] == (
        f"warning: {blocks} is not what the run of this configuration used; the new run uses it as it is."
    )
    blocks.write_text(BLOCKS)
    forget()
    code, _, err = fedpriv(*words, "--resume")
    assert code == 0, err
    assert (tmp_path / "run/summary.json").exists()


def test_a_file_that_was_edited_is_named_where_a_run_goes_on(fedpriv: Any, mine: Path, tmp_path: Path) -> None:
    words = ["run", str(mine), "--out", "run"]
    assert fedpriv(*words)[0] == 0
    code, _, err = fedpriv(*words, "--resume")
    assert (code, "note:" in err) == (0, False), err
    mine.write_text(MY.replace("width = 6", "width = 7"))
    code, _, err = fedpriv(*words, "--resume")
    assert (code, err) == (
        0,
        "note: run was started with other values than the file gives for model.width; the run goes on with those it "
        "was started with.\n",
    )


def test_a_module_in_a_second_folder_is_kept_and_watched(fedpriv: Any, mine: Path, tmp_path: Path) -> None:
    library = mine.parent / "lib"
    library.mkdir()
    (mine.parent / "parts").rename(library / "parts")
    mine.write_text(f'{MY}\n[code]\npath = ["lib"]\n')
    words = ["run", str(mine), "--out", "run"]
    code, _, err = fedpriv(*words)
    assert code == 0, err
    kept = tomllib.loads((tmp_path / "run/config.toml").read_text())["code"]["modules"]
    blocks = library / "parts/blocks.py"
    assert kept["parts.blocks"] == {"file": str(blocks), "sha256": hashlib.sha256(blocks.read_bytes()).hexdigest()}
    blocks.write_text(f"{BLOCKS}# not the same\n")
    for command in (["models", "run"], [*words, "--resume"]):
        forget()
        code, _, err = fedpriv(*command)
        (tmp_path / "run/summary.json").unlink(missing_ok=True)
        assert (code, f"{blocks} is not what this run was started with" in err) == (2, True), err
    blocks.write_text(BLOCKS)
    (library / "json.py").write_text("")
    (mine.parent / "mynet.py").write_text(f"import json\n{MYNET}")
    forget()
    code, _, err = fedpriv("run", str(mine), "--out", "other")
    assert (code, f"{library / 'json.py'} has the name of a module that is installed" in err) == (2, True), err


MEASURES = (
    "from factors import FACTOR\ndef first(predictions, targets):\n    return FACTOR * float(predictions[0, 0])\n"
)


@pytest.mark.parametrize("folder", ["", "lib"])
def test_metrics_and_server_updates_are_own_code_as_any_other(
    fedpriv: Any, mine: Path, tmp_path: Path, folder: str
) -> None:
    """Beside the TOML file or in ``code.path``; kept with a SHA-256, also of what they import; watched."""
    library = mine.parent / folder
    library.mkdir(exist_ok=True)
    for name, text in {"measures.py": MEASURES, "factors.py": "FACTOR = 2\n", "mystep.py": STEP}.items():
        (library / name).write_text(text)
    more = f'[code]\npath = ["{folder}"]\n' if folder else ""
    step = 'server_update = "mystep:Mine"\nserver_pull = 0.5\n'
    text = MY.replace("rounds = 2\n", f"rounds = 2\n{step}").replace("[run]", '[run]\nmetrics = ["measures:first"]')
    mine.write_text(text + more)
    alone = text.replace("pull = 1.0\n", "") + more
    for own, built_in in BUILT_IN.items():
        alone = alone.replace(own, built_in)
    (mine.parent / "alone.toml").write_text(alone)
    made = build_experiment(read_own(mine.parent / "alone.toml"))
    assert list(made.metrics) == ["first"], "also where nothing else is of one's own, and no run keeps what it found"
    forget()
    words = ["run", str(mine), "--reproduce", "3"]
    code, _, err = fedpriv(*words, "--out", "run")
    assert code == 0, err
    config = tomllib.loads((tmp_path / "run/config.toml").read_text())
    assert (config["strategy"]["server_update"], config["strategy"]["server_pull"]) == ("mystep:Mine", 0.5)
    kept = config["code"]["modules"]
    for name in ("measures", "factors", "mystep"):
        file = library / f"{name}.py"
        assert kept[name] == {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    found = json.loads((tmp_path / "run/summary.json").read_text())["diagnostics"]["metrics"]
    assert found["first"]["personal"] is not None
    mine.write_text(mine.read_text().replace(step, "server_learning_rate = 0.5\n"))
    assert fedpriv(*words, "--out", "plain")[0] == 0
    assert published(tmp_path / "run") == published(tmp_path / "plain"), "the step that was named is the one that moved"
    for file in (library / "measures.py", library / "factors.py", library / "mystep.py"):
        before = file.read_text()
        file.write_text(f"{before}# not the same\n")
        summary = (tmp_path / "run/summary.json").read_bytes()
        for command in (["models", "run"], ["attack", "run"], ["run", str(mine), "--out", "run", "--resume"]):
            if command[0] == "run":
                (tmp_path / "run/summary.json").unlink()
            forget()
            code, _, err = fedpriv(*command)
            assert (code, f"{file} is not what this run was started with" in err) == (2, True), err
        (tmp_path / "run/summary.json").write_bytes(summary)
        file.write_text(before)
    forget()
    code, _, err = fedpriv("run", "run/config.toml", "--set=strategy.server_update=momentum", "--out", "other")
    assert code == 0, "the settings of the one before are dropped: " + err
    code, _, err = fedpriv("run", "run/config.toml", "--set=strategy.name=billboard", "--out", "same")
    assert code == 0, err
    assert tomllib.loads((tmp_path / "same/config.toml").read_text())["strategy"]["server_pull"] == 0.5


def test_a_run_goes_on_under_other_metrics_or_those_that_an_earlier_version_kept_no_file_of(
    fedpriv: Any, mine: Path, tmp_path: Path
) -> None:
    (mine.parent / "measures.py").write_text(MEASURES)
    (mine.parent / "factors.py").write_text("FACTOR = 2\n")
    words = ["run", str(mine), "--out", "run"]
    assert fedpriv(*words)[0] == 0
    (tmp_path / "run/summary.json").unlink()
    code, _, err = fedpriv(*words, "--resume", "--set=run.metrics=measures:first")
    assert code == 0, err
    assert "first" in json.loads((tmp_path / "run/summary.json").read_text())["diagnostics"]["metrics"]


WEEK = """
[data]
file = "people.csv"
task = "person"
target = "slept"
features = {day = [0, 6], age = [0, 100]}
classes = ["no", "yes"]
[model]
name = "weeknet:Net"
[client]
name = "global-model"
[strategy]
rounds = 1
clipping_norm = 1.0
noise_multiplier = 1.0
[run]
declared = "benchmark"
grid = "in-process"
report = false
"""
WEEKNET = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.day, self.out = nn.Embedding(7, 3), nn.Linear(3, 2)

    def forward(self, inputs):
        return self.out(self.day((6 * inputs[:, 0]).long()))
"""


def test_a_check_of_a_toml_file_tries_its_model_and_says_what_ids_need(fedpriv: Any, tmp_path: Path) -> None:
    """The examples are made up: a column of ids is none of its own, and the advice helps."""
    folder = tmp_path / "week"
    folder.mkdir()
    days = ["mon", "tue", "wed"]
    rows = [f"{who},{{}},{20 + k},{'yes' if k % 2 else 'no'}" for who in ("ann", "bob", "cem") for k in range(6)]
    (folder / "people.csv").write_text(
        "\n".join(["person,day,age,slept", *(row.format(k % 3) for k, row in enumerate(rows))]) + "\n"
    )
    (folder / "my.toml").write_text(WEEK)
    (folder / "weeknet.py").write_text(WEEKNET)
    code, out, err = fedpriv("data", "check", "week/my.toml")
    assert code == 2
    assert "people: 3" in out, "the structure of the data is right"
    assert "model" not in out
    said = (
        "Net looks up a place that is not there (IndexError: index out of range in self): before any data are touched "
    )
    assert err.startswith(f"fedpriv: {said}")
    assert err.count("\n") == 1
    assert fedpriv("run", "week/my.toml", "--out", "no")[2].splitlines()[-1] == err.strip()
    (folder / "people.csv").write_text(
        "\n".join(["person,day,age,slept", *(row.format(days[k % 3]) for k, row in enumerate(rows))]) + "\n"
    )
    (folder / "my.toml").write_text(
        WEEK.replace("day = [0, 6]", f"day = {days}").replace("weeknet:Net", "weeknet:Wide")
    )
    (folder / "weeknet.py").write_text("from torch import nn\ndef Wide(): return nn.Linear(4, 2)\n")
    forget()
    code, out, err = fedpriv("data", "check", "week/my.toml")
    assert (code, "model: weeknet:Wide works on made-up examples like these" in out) == (0, True), err
    assert "Wide works" in json.loads(fedpriv("data", "check", "week/my.toml", "--json")[1])["model"]
    (folder / "people.csv").write_text(
        "\n".join(["person,day,age,slept", *(row.format(k % 3) for k, row in enumerate(rows))]) + "\n"
    )
    (folder / "my.toml").write_text(WEEK)
    (folder / "weeknet.py").write_text(WEEKNET.replace(".long()", ".long().clamp(0, 6)"))
    forget()
    code, out, err = fedpriv("data", "check", "week/my.toml")
    assert (code, "model: weeknet:Net works" in out) == (0, True), err


def test_a_metric_of_ones_own_is_found_by_shards(fedpriv: Any, mine: Path, tmp_path: Path) -> None:
    (mine.parent / "measures.py").write_text(MEASURES)
    (mine.parent / "factors.py").write_text("FACTOR = 2\n")
    for grid in ("ray", "flower"):
        more = ["--set=run.metrics=measures:first", f"--set=run.grid={grid}", "--set=run.shards=2"]
        code, _, err = fedpriv("run", str(mine), *more, "--out", grid)
        assert code == 0, err
        found = json.loads((tmp_path / grid / "summary.json").read_text())["diagnostics"]["metrics"]
        assert found["first"]["personal"] is not None


def test_a_run_goes_on_with_the_same_code_in_another_folder(fedpriv: Any, mine: Path, tmp_path: Path) -> None:
    words = ["run", str(mine), "--out", "run"]
    assert fedpriv(*words)[0] == 0
    (tmp_path / "run/summary.json").unlink()
    moved = mine.parent.rename(tmp_path / "moved")
    forget()
    code, _, err = fedpriv("run", str(moved / "my.toml"), "--resume", "--out", "run")
    assert code == 2
    assert "there is no module 'mynet': known places are" in err
    code, _, err = fedpriv("run", str(moved / "my.toml"), "--resume", "--out", "run", f"--set=code.path=['{moved}']")
    assert code == 0, err


def test_other_initial_values_do_not_go_on_with_a_run(fedpriv: Any, tmp_path: Path) -> None:
    """A file of weights is no source; frozen values of it are nowhere in a checkpoint."""
    file = lay_out(tmp_path / "mine", MY.replace("width = 6", f"file = '{tmp_path / 'w.pt'}'"))
    (tmp_path / "mine/mynet.py").write_text(
        "import torch\nfrom torch import nn\ndef MyNet(file):\n    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), "
        "nn.Linear(4, 10))\n    net[1].weight = nn.Parameter(torch.load(file), requires_grad=False)\n    return net\n"
    )
    torch.save(torch.ones(4, 64), tmp_path / "w.pt")
    words = ["run", str(file), "--out", "run", "--set=run.public_weights=true"]
    code, _, err = fedpriv(*words)
    assert code == 0, err
    (tmp_path / "run/summary.json").unlink()
    torch.save(torch.zeros(4, 64), tmp_path / "w.pt")
    code, _, err = fedpriv(*words, "--resume")
    assert code == 2
    assert "does not start from the values of this run's start" in err
    torch.save(torch.ones(4, 64), tmp_path / "w.pt")
    assert fedpriv(*words, "--resume")[0] == 0
    protect = ["run.declared=protected", "run.population=p", "run.ledger=l.sqlite", "run.public_weights=false"]
    code, _, err = fedpriv("run", str(file), "--out", "other", *(f"--set={word}" for word in protect))
    assert code == 2
    assert "frozen parameters" in err


def test_a_sweep_over_names_goes_on_only_with_the_code_it_began_with(fedpriv: Any, mine: Path, tmp_path: Path) -> None:
    words = ["sweep", str(mine), "--grid", "model.name=mynet:MyNet,linear", "--seeds", "2", "--out", "sweep"]
    code, _, err = fedpriv(*words, "--jobs", "2")
    assert code == 0, err
    folders = sorted(one.name for one in (tmp_path / "sweep").iterdir() if one.is_dir() and one.name != "figures")
    assert folders == ["1-name-mynet-MyNet", "2-name-linear"]
    gone = tmp_path / "sweep/1-name-mynet-MyNet/seed-1"
    for file in sorted(gone.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (mine.parent / "parts/blocks.py").write_text(f"{BLOCKS}# not the same\n")
    forget()
    code, _, err = fedpriv(*words, "--resume")
    assert code == 2
    assert "is not what this run was started with" in err
    assert not list(gone.glob("*"))
    (mine.parent / "parts/blocks.py").write_text(BLOCKS)
    forget()
    code, _, err = fedpriv(*words, "--resume", "--jobs", "1")
    assert code == 0, err
    code, _, err = fedpriv("sweep", str(gone / "config.toml"), "--grid", "client.pull=0.5", "--seeds", "1")
    assert code == 0, err
    assert (tmp_path / "runs/sweeps/my/1-pull-0.5/seed-0/summary.json").exists()


def test_rows_of_a_client_of_ones_own_are_attacked(fedpriv: Any, mine: Path, tmp_path: Path) -> None:
    few = "partition = 'few-shot'\nways = 5\nshots = 1\nexamples = 8\ntasks = 20\nheld_out = 5\nheld_out_classes = 0\n"
    text = MY.replace('partition = "iid"\ntasks = 12\n', few).replace("noise_multiplier = 1.0", 'reply = "rows"')
    text = text.replace("clipping_norm = 0.5", "clipping_norm = 100.0\nnoise_multiplier = 0.0")
    text = text.replace('name = "myfl:Ditto"\npull = 1.0', 'name = "myfl:Meta"\npermute_labels = true')
    mine.write_text(
        f"{text.replace('sampling_rate = 0.5', 'sampling_rate = 1.0')}\n[attack]\nduring = false\nrounds = [1]\n"
    )
    code, _, err = fedpriv("run", str(mine), "--set=model.name=mynet:MyNet", "--out", "run")
    assert code == 0, err
    games = ["attack.games=3", "attack.validation=2", "attack.iterations=2", "attack.sets=['query']"]
    code, out, err = fedpriv(
        "attack", "run", *(f"--set={word}" for word in [*games, "attack.global_game=false"]), "--json"
    )
    assert code == 0, err
    assert json.loads(out)


# --- what is wrong with it -------------------------------------------------------------------------------------------

NET = "from torch import nn\ndef Net(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
STEP = """from fedpriv.strategies.server_updates import ServerUpdate

class Mine(ServerUpdate):
    pull: float = 1.0

    def step(self, released, state):
        return released.moved(released.total, self.pull * released.learning_rate / released.expected), state
"""
CLIENT = "from fedpriv.clients import GlobalModel\nclass Own(GlobalModel):\n    rate: float = 1.0\n"

WRONG: list[tuple[str, str, str, str]] = [
    # kind, text of own.py, name, what is said
    ("model", NET, "onw:Net", "there is no module 'onw': did you mean 'own'? known places are"),
    ("model", NET, "own:Nett", "unknown model of own 'Nett': did you mean 'Net'?"),
    ("model", NET, "own.py:Net", "names a file; name its module, own:Net,"),
    ("model", NET, "lib/own.py:Net", "names a file; name its module, own:Net,"),
    ("model", NET, "own:", "is no name of code; write module:Name, such as mynet:MyNet"),
    ("model", NET, "__main__:Net", "lies in the script itself, which nodes cannot import; write a module."),
    ("model", NET, "own", "One of your own is named module:Name"),
    ("model", f"{NET}it = Net()\n", "own:it", "is a module made already; name its class, or a function"),
    ("model", NET.replace("return nn", "return nn.Linear #"), "own:Net", "returns the class Linear; return a module"),
    ("model", "def Net(): pass\n", "own:Net", "returns a NoneType; return a torch.nn.Module."),
    ("model", "Net = 3\n", "own:Net", "is of the type int; name a class that inherits from torch.nn.Module"),
    ("model", "class Net: pass\n", "own:Net", "is of the type Net; name a class that inherits from torch.nn.Module"),
    ("model", "def Net():\n    raise RuntimeError('too\\nbig')\n", "own:Net", "cannot be made: RuntimeError: too big"),
    ("model", "def Net(wide): pass\n", "own:Net", "needs 'wide'; set model.wide."),
    ("model", "import os, torch\nfrom torch import nn\ndef Net():\n    net = nn.Linear(64, 10)\n"
     "    net.bias.data += os.urandom(1)[0] + len(os.listdir('.')) + torch.rand(1, generator=torch.Generator("
     ").manual_seed(int.from_bytes(os.urandom(4), 'big')))\n    return net\n",
     "own:Net", "'bias' of the model 'own:Net' has other initial values each time it is made"),
    ("model", "import nothere\n", "own:Net", "own.py needs the module 'nothere', which is not there; install it."),
    ("model", "x = (\n", "own:Net", "own.py cannot be imported: SyntaxError"),
    ("model", "x = 1\ny = x / 0\n", "own:Net", "cannot be imported: ZeroDivisionError: division by zero (line 2)"),
    ("model", "import sys\nsys.exit(3)\n", "own:Net", "own.py cannot be imported: SystemExit: 3 (line 2)"),
    ("model", f"import colours\n{NET}", "own:Net", "colours.py has the name of a module that is installed"),
    ("client", NET, "own:Net", "is an object of the type function, and a client is a class that inherits"),
    ("client", f"{CLIENT}it = Own()\n", "own:it", "is an object made already; name its class, own:Own,"),
    ("client", CLIENT.replace("GlobalModel", "LocalOnly as GlobalModel", 1), "own:Own", "use 'silent'"),
    ("client", f"{CLIENT}\n    def model_post_init(self, _):\n        raise OSError('no disk')\n", "own:Own",
     "client.name = 'own:Own' cannot be made: OSError: no disk"),
    ("client", "from fedpriv.cohort import ClientAlgorithm\nclass Own(ClientAlgorithm): pass\n", "own:Own",
     "client.name = 'own:Own' is abstract: write its train."),
    ("strategy", CLIENT, "own:Own", "is the class Own, and a strategy is a class that inherits from TaskStrategy"),
    ("strategy", "from fedpriv.strategies import Billboard\nclass Own(Billboard):\n    def noise_of(self): pass\n",
     "own:Own", "would never be asked"),
    ("metric", NET, "own:gini", "unknown metric of own 'gini'"),
    ("metric", NET, "own.py:Net", "run.metrics = 'own.py:Net' names a file; name its module, own:Net,"),
    ("metric", NET, "gini", "One of your own is named module:function, such as"),
    ("metric", "1 / 0\n", "own:gini", "own.py cannot be imported: ZeroDivisionError: division by zero (line 1)"),
    ("metric", "def gini(predictions, targets):\n    return predictions\n", "own:gini", "fails on made-up predictions"),
    ("server_update", STEP, "own:Mien", "unknown server_update of own 'Mien': did you mean 'Mine'?"),
    ("server_update", f"{STEP}it = Mine()\n", "own:it",
     "name its class, own:Mine, and give its settings as keys of [strategy], with server_ before their names."),
    ("server_update", CLIENT, "own:Own", "is the class Own, and a server_update is a class that inherits from Server"),
    ("server_update", f"{STEP}\n    def model_post_init(self, _):\n        raise OSError('no disk')\n", "own:Mine",
     "server_update='own:Mine' cannot be made: OSError: no disk"),
    ("server_update", STEP, "adma", "did you mean 'adam'"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text", "name", "said"), WRONG, ids=lambda one: one[:30])
def test_faulty_code_is_one_sentence(
    fedpriv: Any, tmp_path: Path, monkeypatch: Any, kind: str, text: str, name: str, said: str
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own.py").write_text(text)
    (folder / "colours.py").write_text("")
    (tmp_path / "site").mkdir()
    (tmp_path / "site/colours.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    other = f'name = "{name}"'
    (folder / "my.toml").write_text(
        MY.replace('name = "mynet:MyNet"\nwidth = 6', other if kind == "model" else 'name = "mlp"')
        .replace('name = "myfl:Ditto"\npull = 1.0', other if kind == "client" else "")
        .replace('name = "mystrat:Mine"', other if kind == "strategy" else 'name = "billboard"')
        .replace("rounds = 2", f'rounds = 2\nserver_update = "{name}"' if kind == "server_update" else "rounds = 2")
        .replace("[run]", f'[run]\nmetrics = ["{name}"]' if kind == "metric" else "[run]")
    )
    code, out, err = fedpriv("run", str(folder / "my.toml"), "--out", "run")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert said in err
    assert not (tmp_path / "run").exists()
    sys.modules.pop("own", None)
    sys.modules.pop("colours", None)


def test_settings_of_own_code_are_checked_as_those_of_fedprivs(fedpriv: Any, mine: Path) -> None:
    for word, said in (
        ("client.pul=1", "unknown setting 'pul': did you mean 'pull'?"),
        ("model.widht=1", "unknown setting 'widht': did you mean 'width'? known are width."),
        ("strategy.clip=1", "unknown setting 'clip'"),
        ("code.paths=['x']", "unknown setting 'paths': did you mean 'path'?"),
    ):
        code, _, err = fedpriv("run", str(mine), f"--set={word}", "--out", "run")
        assert (code, err.count("\n")) == (2, 1), err
        assert said in err


def test_faulty_files_are_one_sentence(fedpriv: Any, mine: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(mine.read_text())
    (tmp_path / "broken.toml").write_text("[data\n")
    assert fedpriv("run", str(mine), "--out", "done")[0] == 0
    quick = Billboard(rounds=1, clipping_norm=1.0, noise_multiplier=1.0)
    Experiment(tasks=toy_tasks(), client=GlobalModel(), strategy=quick, report=False).run("python")
    for words, said in (
        (["nowhere.toml"], "nowhere.toml cannot be read"),
        (["mine"], "'mine' is no scenario; to run the file, give mine.toml."),
        (["nothing"], "A file of your own is given with its ending, nothing.toml."),
        (["broken.toml"], "broken.toml is not valid TOML"),
        (["done"], "done is a run folder; give its file, done/config.toml, to run it again."),
        (["python/config.toml"], "of a run that was made in Python"),
        ([str(mine), "--preset", "digits"], "my.toml is a preset itself, got --preset digits"),
        (["pmtl", "--preset", "nowhere.toml"], "nowhere.toml cannot be read"),
        ([str(mine), "--resume", "--out", "empty"], "empty holds no run to resume"),
    ):
        code, _, err = fedpriv("run", *words)
        assert (code, err.count("\n")) == (2, 1), err
        assert said in err


def test_a_module_of_another_folder_is_not_taken_for_one_of_its_name(fedpriv: Any, mine: Path, tmp_path: Path) -> None:
    other = lay_out(tmp_path / "other", MY.replace("width = 6", "width = 7"))
    assert fedpriv("run", str(mine), "--out", "one")[0] == 0
    code, _, err = fedpriv("run", str(other), "--out", "two")
    assert code == 2
    assert f"this process has imported 'mynet' from {mine.parent / 'mynet.py'}" in err


# --- what every node has ---------------------------------------------------------------------------------------------


def seeded(kind: str) -> Callable[..., Any]:
    draws = {
        "torch": "nn.init.normal_(net.weight)",
        "numpy": "net.weight.data[0] = float(numpy.random.rand())",
        "random": "net.weight.data[0] = random.random()",
    }
    head = "import random\nimport numpy\nfrom torch import nn\n"
    text = f"{head}def make():\n    net = nn.Linear(5, 3)\n    {draws[kind]}\n"
    space: dict[str, Any] = {}
    exec(f"{text}    return net\n", space)
    return space["make"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["torch", "numpy", "random"])
def test_initial_values_follow_from_the_seed_alone(kind: str, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / f"net_{kind}.py").write_text("make = None\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = __import__(f"net_{kind}")
    module.make = seeded(kind)
    try:

        def start(seed: int) -> tuple[str, Any]:
            strategy = Billboard(rounds=1, clipping_norm=1.0, noise_multiplier=1.0)
            made = Experiment(
                tasks=toy_tasks(), model=f"net_{kind}:make", client=GlobalModel(), strategy=strategy, seed=seed
            )
            return made.problem().digest, made

        before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]
        (one, made), (again, _), (other, _) = start(1), start(1), start(2)
        assert one == again
        assert one != other
        after = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[union-attr]
        assert torch.equal(before[0], after[0])
        assert before[1] == after[1]
        assert made.describe()["code"]["initial"] == one
    finally:
        del sys.modules[f"net_{kind}"]


class Listening(InProcessGrid):
    """Keeps what nodes are sent."""

    def __init__(self, specs: Any) -> None:
        super().__init__(specs)
        self.sent: list[bytes] = []

    def deliver(self, messages: Any, timeout: float | None) -> Any:
        self.sent += [bytes(pack(message)) for message in messages]
        return super().deliver(messages, timeout)


def test_what_nodes_are_sent_names_no_code(mine: Path) -> None:
    """A node imports what its owner's file names; whoever serves cannot make it import anything."""
    experiment = build_experiment(read_own(mine))
    with Listening(experiment.specs(experiment.problem(), 2)) as grid:
        experiment.run(on=grid)
    assert len(grid.sent) > 4
    sent = b"".join(grid.sent)
    assert b"net.1.weight" in sent, "names of arrays are read in what is sent"
    for secret in ("mynet", "myfl", "mystrat", "MyNet", "Ditto", "Mine", str(mine.parent), "blocks", "fedpriv."):
        assert secret.encode() not in sent, secret


def test_what_own_code_says_when_it_fails_stays_on_the_node() -> None:
    def fails(_: Any) -> Any:
        raise OwnCodeError("own.py cannot be imported: ValueError: could not convert 'HIV+' to float")

    from flwr.app import Context, RecordDict

    app = client_app(fails)
    context = Context(0, 1, {}, RecordDict(), {})
    message = Message(RecordDict(), dst_node_id=1, message_type="train")
    with pytest.raises(ComponentFailure) as caught:
        app(message, context)
    assert str(caught.value) == "code of the node's owner failed while the node was built"


def test_a_shard_works_only_with_the_code_that_its_driver_read(mine: Path, tmp_path: Path) -> None:
    """A file that is edited while a run is at work would mix two programs when a shard is lost and built again."""
    experiment = build_experiment(read_own(mine))
    with RayGrid(experiment.specs(experiment.problem(), 1)) as grid:
        (process,) = grid.processes().values()
        blocks = mine.parent / "myfl.py"
        blocks.write_text(f"{MYFL}\nMORE = 1\n")
        os.kill(process, 9)
        with pytest.raises(ComponentFailure, match=r"myfl\.py is not as it was when the run began"):
            experiment.run(on=grid)


# --- what packages offer ---------------------------------------------------------------------------------------------


def install(site: Path, package: str, **entries: str) -> None:
    """Lay out what an installed package has that offers clients."""
    folder = site / f"{package}-1.2.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
    lines = "".join(f"{name} = {target}\n" for name, target in entries.items())
    (folder / "entry_points.txt").write_text(f"[fedpriv.clients]\n{lines}")


def test_what_an_installed_package_offers_is_listed_and_used(fedpriv: Any, tmp_path: Path, monkeypatch: Any) -> None:
    site = tmp_path / "site"
    install(site, "nudge", **{"nudged": "nudging.clients:Nudged", "global-model": "nudging.clients:Nudged"})
    (site / "nudging").mkdir()
    (site / "nudging/__init__.py").write_text("")
    (site / "nudging/clients.py").write_text("from nudging.how import Nudged\n")
    (site / "nudging/how.py").write_text(CLIENT.replace("Own", "Nudged"))
    monkeypatch.syspath_prepend(str(site))
    listed = {row["name"]: row for row in json.loads(fedpriv("list", "clients", "--json")[1])}
    assert listed["nudged"] == {"name": "nudged", "about": "nudging.clients:Nudged", "from": "nudge 1.2"}
    assert listed["global-model"]["from"] == "fedpriv", "nobody takes the place of one of fedpriv's"
    assert {"mlp", "cnn"} <= {row["name"] for row in json.loads(fedpriv("list", "models", "--json")[1])}
    assert {"billboard", "silent"} <= {row["name"] for row in json.loads(fedpriv("list", "strategies", "--json")[1])}
    words = ["--set=strategy.rounds=1", "--set=data.tasks=12", "--set=run.grid=in-process", "--set=run.report=false"]
    code, _, err = fedpriv("run", "pmtl", *words, "--set=client.name=nudged", "--set=client.rate=2.0", "--out", "run")
    assert code == 0, err
    config = tomllib.loads((tmp_path / "run/config.toml").read_text())
    assert (config["client"]["name"], config["client"]["rate"]) == ("nudged", 2.0)
    assert set(config["code"]["modules"]) == {"nudging", "nudging.clients", "nudging.how"}
    code, _, err = fedpriv("run", "pmtl", *words, "--set=client.name=nudgde", "--out", "no")
    assert code == 2
    assert "did you mean 'nudged'?" in err
    install(site, "shove", nudged="shoving:Nudged")
    code, _, err = fedpriv("run", "pmtl", *words, "--set=client.name=nudged", "--out", "no")
    assert (code, err.count("\n")) == (2, 1)
    assert "both offer the client 'nudged'" in err
    del sys.modules["nudging"]


def test_every_command_says_it_in_a_new_process_too(mine: Path, tmp_path: Path) -> None:
    """The console script has no folder on its path but its own."""
    command = str(Path(sys.executable).parent / "fedpriv")
    done = subprocess.run(
        [command, "run", str(mine), "--out", "run"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (mine.parent / "myfl.py").write_text("1 / 0\n")
    done = subprocess.run([command, "models", "run"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        f"fedpriv: {mine.parent / 'myfl.py'} cannot be imported: ZeroDivisionError: division by zero (line 1); "
        "mend it.\n",
    )
