"""The models of a node's tasks: made on the node from what it kept, the same as a simulation's, and nobody else's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import toy_tasks
from test_deploy_node import CONFIG, RUN, ask, host, request

from fedpriv.deploy.journal import RunJournal
from fedpriv.deploy.models import personal_of_journal
from fedpriv.deploy.owner import OwnerFile
from fedpriv.errors import ComponentFailure, InputError
from fedpriv.protocol import RunName
from fedpriv.runs.atomic import read_members


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a node that answered two rounds and the last fit."""
    monkeypatch.setattr(OwnerFile, "tasks", lambda *_: replace(toy_tasks(4), declared="protected"))
    mine = host(tmp_path)
    with pytest.raises(InputError, match="has finished no run yet"):
        personal_of_journal(tmp_path / "node.toml")
    for number, kind in ((1, "train"), (2, "train"), (0, "train.finish"), (0, "evaluate")):
        assert not ask(mine, request(number, shift=0.1 * number), kind).has_error()
    return tmp_path / "node.toml"


def test_a_node_makes_its_tasks_models_from_what_it_kept(node: Path) -> None:
    found = personal_of_journal(node)
    assert list(found) == list(toy_tasks(4).names)
    _, members = read_members(RunJournal(node.parent / "node.journal", RUN).path)
    kept = {name.removeprefix("rows/"): rows for name, rows in members if name.startswith("rows/")}
    for place, name in enumerate(found):
        state = found[name].state_dict()
        rows = [kept[key][place] for key in kept if key.endswith("1.weight")]
        assert any(np.array_equal(row, state["1.weight"].numpy()) for row in rows), "the task's own weights"
    inputs = toy_tasks(4).test.inputs[:3]
    assert {found.predict(name, inputs).shape for name in found} == {(3,)}
    assert CONFIG["model"]["name"] == "linear"


def test_models_are_written_for_predict(node: Path, fedpriv: Any, tmp_path: Path) -> None:
    code, said, _ = fedpriv("deploy", "models", str(node), "--out", str(tmp_path / "models"))
    assert code == 0
    assert "4 models in" in said
    np.save(tmp_path / "new.npy", toy_tasks(4).test.inputs[:3])
    name = toy_tasks(4).names[0]
    code, said, _ = fedpriv("predict", str(tmp_path / "models"), "--task", name, "--input", str(tmp_path / "new.npy"))
    assert code == 0
    assert len(said.splitlines()) == 4
    code, _, said = fedpriv("deploy", "models", str(node), "--out", str(tmp_path / "no"), "--run", "on")
    assert code == InputError.exit_code
    assert RUN.run in said


def test_models_of_a_run_whose_journal_is_gone_or_another_s_are_refused(node: Path) -> None:
    journal = RunJournal(node.parent / "node.journal", RUN)
    other = RunJournal(node.parent / "node.journal", RunName("clinic", "other"))
    journal.last.rename(other.last)
    with pytest.raises(InputError, match="is not of the run that it names"):
        personal_of_journal(node)
    other.last.rename(journal.last)
    journal.last.write_bytes(journal.last.read_bytes()[:-30])
    with pytest.raises(ComponentFailure, match="cannot be read"):
        personal_of_journal(node)
