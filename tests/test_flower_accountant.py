"""Flower's own fixed clipping on our ledger: its interface here, and the example of the page in its engine."""

from __future__ import annotations

import json
import math
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import GaussianPrivacyEvent, PrivacyAccountant
from flwr.serverapp.exception import PrivacyBudgetExhausted
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg
from sklearn.datasets import load_digits

from fedpriv.errors import BudgetExceeded, ComponentFailure, InputError, NoGuarantee
from fedpriv.privacy import Ledger, Relation, Target, gaussian_epsilon
from fedpriv.runtime import flower_private, stock
from fedpriv.strategies.accountant import LedgerAccountant

PAGE = Path(__file__).parent.parent / "docs" / "flower-accountant.md"
NAMES = [f"clinic-{number}" for number in range(4)]
EVENT = GaussianPrivacyEvent(noise_multiplier=5.0, sample_size=4, population_size=4)
BUDGET = Target(epsilon=2.0, delta=1e-3)


def accountant(path: Path, **changes: Any) -> LedgerAccountant:
    settings: dict[str, Any] = {"clients": NAMES, "num_sampled_clients": 4, "budget": BUDGET, **changes}
    return LedgerAccountant(path / "ledger.sqlite", "clinics", settings.pop("run", "r"), **settings)


def test_it_satisfies_flowers_interface(tmp_path: Path) -> None:
    mine: PrivacyAccountant = accountant(tmp_path)
    for name in vars(PrivacyAccountant):
        assert name.startswith("_") or hasattr(mine, name), name
    assert mine.num_releases == 0
    assert mine.get_epsilon(1e-3) == 0.0
    mine.compose(EVENT)
    mine.compose(EVENT, count=2)
    assert mine.num_releases == 3
    assert mine.get_epsilon(1e-3) == pytest.approx(gaussian_epsilon(math.sqrt(3) / 5, 1e-3))
    assert mine.get_delta(mine.get_epsilon(1e-3)) == pytest.approx(1e-3)
    spent = mine.get_privacy_spent()
    assert (spent.num_releases, spent.delta, spent.accounting_method) == (3, 1e-3, "gaussian, add/remove")
    assert mine.would_exceed(EVENT, max_epsilon=spent.epsilon)
    assert not mine.would_exceed(EVENT)
    assert mine.would_exceed(EVENT, count=1000)
    assert mine.num_releases == 3  # asking changed nothing
    with pytest.raises(BudgetExceeded):
        mine.compose(EVENT, count=1000)
    assert mine.num_releases == 3


def test_the_ledger_is_the_state(tmp_path: Path) -> None:
    first = accountant(tmp_path)
    first.compose(EVENT, count=2)
    state = json.loads(json.dumps(first.state_dict()))
    again = accountant(tmp_path)
    again.load_state_dict(state)
    again.compose(EVENT)
    other = accountant(tmp_path, run="s")
    assert (again.num_releases, other.num_releases) == (3, 3)  # one budget over all trainings
    alone = accountant(tmp_path, run="s", declared="protected")
    alone.compose(EVENT)
    assert [one.round for one in Ledger(tmp_path / "ledger.sqlite").entries("clinics")] == [1, 2, 3, 1]
    for change, words in (
        ({"run": "t"}, "'run' of the state"),
        ({"backend": "rdp"}, "'backend' of the state"),
        ({"releases": 9}, "holds 3 releases.*restore the ledger"),
    ):
        with pytest.raises(InputError, match=words):
            again.load_state_dict({**state, **change})


def test_smaller_cohorts_are_accounted_under_replace_one_and_in_full(tmp_path: Path) -> None:
    with pytest.raises(NoGuarantee, match="takes the place of one that is removed"):
        accountant(tmp_path, num_sampled_clients=2)
    mine = accountant(tmp_path, num_sampled_clients=2, budget=None)
    assert mine.relation is Relation.REPLACE_ONE
    event = GaussianPrivacyEvent(noise_multiplier=5.0, sample_size=2, population_size=4)
    mine.compose(event, count=3)
    assert mine.get_epsilon(1e-3) == pytest.approx(gaussian_epsilon(2 * math.sqrt(3) / 5, 1e-3))
    found = mine.guarantee()
    assert found.relation is Relation.REPLACE_ONE
    assert "every round counted in full" in str(found)
    assert any("constant weight" in one for one in found.assumptions)
    for wrong in (EVENT, GaussianPrivacyEvent(noise_multiplier=5.0, sample_size=2, population_size=5)):
        with pytest.raises(InputError, match="as the accountant was told"):
            mine.compose(wrong)
    with pytest.raises(InputError, match="'max_epsilon' must be given"):
        mine.would_exceed(event)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clients": []}, "name every client"),
        ({"clients": "clinic"}, "name every client"),
        ({"clients": ["a", "a"]}, "each once"),
        ({"num_sampled_clients": 5}, "at most the number of tasks"),
        ({"declared": "private"}, "must be 'protected' or 'benchmark'"),
        ({"run": ""}, "text that is not empty"),
        ({"delta": 1e-4}, "brings its own delta"),
        ({"relation": Relation.REPLACE_ONE}, "brings its own"),
        ({"budget": None, "delta": 0.3}, "below 1/m"),
        ({"budget": None, "delta": 0.0}, "between 0 and 1"),
    ],
)
def test_bad_input_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        accountant(tmp_path, **changes)
    assert not (tmp_path / "ledger.sqlite").exists()


def test_two_servers_under_one_name_are_refused(tmp_path: Path, monkeypatch: Any) -> None:
    mine, other = accountant(tmp_path), accountant(tmp_path)
    monkeypatch.setattr(mine, "_done", lambda: 0)  # as if both had asked at the same time
    other.compose(EVENT)
    with pytest.raises(ComponentFailure, match="at the same time"):
        mine.compose(EVENT)
    assert other.num_releases == 1


def test_two_servers_that_alternate_are_one_training(tmp_path: Path) -> None:
    """As the page says: each release of both is charged."""
    mine, other = accountant(tmp_path), accountant(tmp_path)
    for one in (mine, other, mine):
        one.compose(EVENT)
    assert [one.round for one in Ledger(tmp_path / "ledger.sqlite").entries("clinics", "r")] == [1, 2, 3]
    assert mine.get_epsilon(1e-3) == other.get_epsilon(1e-3) == pytest.approx(gaussian_epsilon(math.sqrt(3) / 5, 1e-3))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("clipping_norm", [0, -1.0, math.nan, math.inf, "1", None, True, 1e101]),
        ("population", ["", 5, None]),
        ("run", ["", 5]),
        ("clients", [5, None, "abc", [], ["a", 5], ["a", "a"], [""], [None]]),
        ("budget", [3.0, {"epsilon": 1.0}]),
        ("relation", ["no", 5, ""]),
        ("delta", ["x", math.nan, True, 0.0, 0.5]),
        ("num_sampled_clients", [0, 5, "4", 4.0, True]),
        ("declared", ["no", 5]),
        ("ledger", ["", 5, None, "."]),
    ],
)
def test_odd_arguments_are_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: Any, name: str, values: list[Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    good = {"ledger": "l.sqlite", "population": "p", "run": "r", "clients": NAMES, "num_sampled_clients": 4}
    for value in values:
        with pytest.raises(InputError) as refused:
            LedgerAccountant(**{**good, name: value})
        assert str(refused.value).count("\n") == 0
    assert list(tmp_path.iterdir()) == []


def test_odd_questions_are_refused_in_a_sentence(tmp_path: Path) -> None:
    mine = accountant(tmp_path)
    mine.compose(EVENT)
    for value in (math.nan, "x", True, -1.0, [1]):
        with pytest.raises(InputError, match="'max_epsilon' must be"):
            mine.would_exceed(EVENT, max_epsilon=value)  # type: ignore[arg-type]
        for question in (mine.get_epsilon, mine.get_delta, mine.get_privacy_spent):
            with pytest.raises(InputError):
                question(value)  # type: ignore[operator]
        with pytest.raises(InputError):
            mine.load_state_dict(value)  # type: ignore[arg-type]
        with pytest.raises(InputError):
            mine.load_state_dict({**mine.state_dict(), "releases": value})
        with pytest.raises(InputError):
            mine.compose(value)  # type: ignore[arg-type]
    assert mine.would_exceed(EVENT, max_epsilon=0.0)
    assert mine.num_releases == 1


class Nodes:
    """What Flower's strategies need of a grid here."""

    def get_node_ids(self) -> list[int]:
        return [1, 2, 3, 4]


def replies(messages: Any, weights: list[float]) -> list[Message]:
    out = []
    for number, (message, weight) in enumerate(zip(messages, weights, strict=True)):
        update = ArrayRecord({"w": Array(np.full(3, float(number + 1)))})
        content = RecordDict({"arrays": update, "metrics": MetricRecord({"weight": weight})})
        flower_private.stamp(message, f"number-{number}")
        out.append(Message(content, reply_to=message))
    return out


@pytest.fixture
def strategy(tmp_path: Path) -> Any:
    flower_private.set_identity()
    return DifferentialPrivacyServerSideFixedClipping(
        FedAvg(fraction_evaluate=0.0, min_train_nodes=4, weighted_by_key="weight"),
        noise_multiplier=5.0,
        clipping_norm=1.0,
        num_sampled_clients=4,
        accountant=accountant(tmp_path),
    )


def test_what_cannot_be_charged_is_not_returned(strategy: Any, tmp_path: Path, monkeypatch: Any) -> None:
    start, mine = ArrayRecord({"w": Array(np.zeros(3))}), strategy.accountant
    messages = list(strategy.configure_train(1, start, _config(), Nodes()))
    arrays, _ = strategy.aggregate_train(1, replies(messages, [1.0] * 4))
    assert arrays is not None
    assert mine.num_releases == 1
    messages = list(strategy.configure_train(2, start, _config(), Nodes()))
    with pytest.raises(ValueError, match="equal client weights"):
        strategy.aggregate_train(2, replies(messages, [1.0, 1.0, 1.0, 50.0]))
    assert mine.num_releases == 1
    messages = list(strategy.configure_train(3, start, _config(), Nodes()))
    accountant(tmp_path, run="other").compose(EVENT, count=more(tmp_path))  # somebody else spends the rest meanwhile
    with pytest.raises(BudgetExceeded):
        strategy.aggregate_train(3, replies(messages, [1.0] * 4))
    with pytest.raises(PrivacyBudgetExhausted):
        strategy.configure_train(4, start, _config(), Nodes())


def _config() -> Any:
    from flwr.app import ConfigRecord

    return ConfigRecord()


def more(path: Path) -> int:
    """Return how many more releases like the last one the budget pays for."""
    return int(Ledger(path / "ledger.sqlite").describe("clinics")["left"]["more_like_the_last"])


APP = """\
[project]
name = "demo"
version = "1.0.0"
dependencies = []

[tool.flwr.app]
publisher = "fedpriv"

[tool.flwr.app.components]
serverapp = "demo.server:app"
clientapp = "demo.client:app"

[tool.flwr.app.config]
clients = 4
rounds = 6
epsilon = {epsilon}
ledger = "{out}/ledger.sqlite"
out = "{out}"
"""


@pytest.mark.long
@pytest.mark.timeout(400)
def test_the_page_runs_in_flowers_engine(tmp_path: Path) -> None:
    """Three rounds fit the budget and six were asked for: three are published, each charged before, and no more."""
    code = re.findall(r"`demo/(\w+\.py)`:\n\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    app = tmp_path / "app"
    (app / "demo").mkdir(parents=True)
    (app / "demo" / "__init__.py").touch()
    for name, text in code:
        (app / "demo" / name).write_text(text)
    three = gaussian_epsilon(2 * math.sqrt(3), 1e-3) * 1.15  # a filter grants a little less than the exact curve
    (app / "pyproject.toml").write_text(APP.format(epsilon=three, out=tmp_path))
    with stock._superlink(tmp_path) as environment:
        words = ["run", str(app), "own", "--stream", "--federation-config", "num-supernodes=4"]
        done = subprocess.run(
            [stock._tool("flwr"), *words], env=environment, capture_output=True, text=True, check=False, timeout=300
        )
    said = done.stdout + done.stderr
    published = sorted(int(path.stem.split("-")[1]) for path in tmp_path.glob("round-*.npz"))
    assert published == [0, 1, 2, 3], said[-3000:]
    assert [int((tmp_path / f"charged-{number}").read_text()) for number in published] == [0, 1, 2, 3]
    assert "would exceed max_epsilon" in said
    settings = {"clients": NAMES, "num_sampled_clients": 4, "budget": Target(epsilon=three, delta=1e-3)}
    again = LedgerAccountant(tmp_path / "ledger.sqlite", "clinics", "first-training", **settings)
    assert again.num_releases == 3
    assert again.get_epsilon(1e-3) == pytest.approx(gaussian_epsilon(2 * math.sqrt(3), 1e-3))
    assert again.would_exceed(GaussianPrivacyEvent(noise_multiplier=0.5, sample_size=4, population_size=4))
    digits = load_digits()
    with np.load(tmp_path / "round-3.npz") as last:
        scores = np.c_[digits.data / 16, np.ones(len(digits.data))] @ last["weights"]
    assert (scores.argmax(axis=1) == digits.target).mean() > 0.3  # chance is 0.1
