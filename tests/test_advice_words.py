"""Advice about words, files, ledgers and single functions is true: what is refused, what is said, and doing it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from advice import GONE, Case, cases
from torch import nn

from fedpriv import InputError, Target
from fedpriv.adversary.outcome import judge
from fedpriv.cli.account_figure import check_file
from fedpriv.cohort import Key
from fedpriv.cohort.batches import Schedule
from fedpriv.config import apply, build_experiment, parse_assignments, read_toml
from fedpriv.data.item_factors import Ratings, fit_item_factors
from fedpriv.evidence.protocol import Protocol
from fedpriv.experiment import Experiment
from fedpriv.lrs.store import PersonalModels
from fedpriv.lrs.subspace import leading
from fedpriv.models import build_model
from fedpriv.models.factored import Factored
from fedpriv.privacy.accounting import epsilon as release_epsilon
from fedpriv.privacy.claims import claim
from fedpriv.privacy.clipping import clipped_sum
from fedpriv.privacy.entropy import ReproducibleEntropy
from fedpriv.privacy.filters import GdpFilter, RenyiFilter
from fedpriv.privacy.guarantee import Guarantee, guarantee_for
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.mechanisms import Release, gaussian_sum
from fedpriv.privacy.policy import NodePolicy, decide
from fedpriv.privacy.sampling import FixedSizeSampling
from fedpriv.privacy.terms import NoiseAt, Notion, Observer, Output, Relation
from fedpriv.scenarios import scenario
from fedpriv.settings import Settings
from fedpriv.statistics import contrast, interval
from fedpriv.strategies.accountant import LedgerAccountant
from fedpriv.sweep import JobRunner, check_jobs
from fedpriv.sweep.plan import Plan
from fedpriv.sweep.words import parse_grid, parse_seeds


class Number(Settings):
    """Settings with one that must be given."""

    number: int


DIGITS = scenario("pmtl").preset("digits")
TINY = ("data.tasks=20", "run.grid=in-process", "strategy.rounds=1", "strategy.noise_multiplier=3.0")
PEOPLE = ("run.declared=protected", "run.population=clinic", "run.ledger=clinic.sqlite")
ALL, POISSON = "full", "poisson"
FEW = (
    "client.name=maml",
    "data.partition=few-shot",
    "data.ways=3",
    "data.examples=6",
    "data.held_out=4",
    "data.tasks=20",
    "strategy.reply=rows",
)


def configured(words: tuple[str, ...] = (), attack: dict[str, Any] | None = None) -> Experiment:
    """The experiment of a configuration, as the command builds it."""
    config = apply(DIGITS, parse_assignments(words))
    return build_experiment(config if attack is None else {**config, "attack": attack})


def started(at_once: int | None = None, **asked: Any) -> None:
    """A sweep up to where its first run would start."""
    plan = swept(**{"grid": ("client.strength=1",), "seeds": "1", **asked})
    with JobRunner(build_experiment, at_once=at_once) as runner:
        check_jobs(plan.jobs(Path("nowhere")), build_experiment, None, runner.prepare)


def swept(grid: tuple[str, ...] = ("client.strength=0.5,1",), seeds: str = "2", words: tuple[str, ...] = ()) -> Plan:
    plan = Plan("pmtl", "digits", apply(DIGITS, parse_assignments(words)), parse_grid(grid), parse_seeds(seeds))
    plan.cells()
    return plan


WORDS = [
    *cases(
        configured,
        {},
        (
            {"words": ("data.drop_unusable=true", *PEOPLE)},
            "leave it out, and choose the tasks of a protected population beforehand",
            {"words": PEOPLE},
        ),
        (
            {"words": FEW, "attack": {"games": 30, "validation": 40}},
            "lower attack.games or attack.validation, or add tasks",
            {"attack": {"games": 3, "validation": 2}},
        ),
        (
            {"words": (*FEW[:-1], "strategy.reply=sum"), "attack": {"games": 3, "validation": 2}},
            "set strategy.reply = 'rows' to attack rows",
            {"words": FEW},
        ),
        (
            {"words": ("strategy.reply=rows",), "attack": {"games": 3, "validation": 2}},
            "draw, inner, begin, from_zero); use the client 'maml'",
            {"words": FEW},
            {"attack": {"during": False}},
        ),
        (
            {
                "words": (*FEW, "model.name=mlp", "client.from_zero=['3.weight', '3.bias']"),
                "attack": {"games": 3, "validation": 2},
            },
            "Attack support sets: attack.sets = ['support'], attack.global_game = false",
            {"attack": {"games": 3, "validation": 2, "sets": ["support"], "global_game": False}},
        ),
        (
            {"words": (*FEW, *PEOPLE), "attack": {"games": 3, "validation": 2}},
            "attack a run on benchmark data with the same settings",
            {"words": FEW},
        ),
    ),
    *cases(
        swept,
        {},
        ({"grid": ()}, "without one, use `fedpriv run`", {"grid": ("client.strength=1",)}),
        (
            {"words": ("run.grid=flower",)},
            "which Flower's own engine cannot; use run.grid=ray",
            {"words": ("run.grid=ray",)},
        ),
        ({"words": ("run.seed=1",)}, "cannot be set in a sweep; use --seeds", {"words": (), "seeds": "1-1"}),
        ({"grid": ("run.seed=1,2",)}, "--grid cannot vary {}; use {}", {"grid": GONE, "seeds": "1-2"}),
        (
            {"grid": ("strategy.epsilon=1,2", "strategy.noise_multiplier=1,2")},
            "are the same run; leave one key out",
            {"grid": ("strategy.epsilon=1,2",)},
        ),
        (
            {"grid": ("strategy.epsilon=1", "strategy.noise_multiplier=1,2")},
            "would run without {}, which another key replaces; leave one out",
            {"grid": ("strategy.epsilon=1",)},
            {"grid": ("strategy.noise_multiplier=1,2",)},
        ),
        (
            {"grid": ("client.strength=1",) * 2},
            "twice; give all its values in one list",
            {"grid": ("client.strength=1,2",)},
        ),
        ({"grid": ("client.strength=1,1",)}, "twice; leave one out", {"grid": ("client.strength=1",)}),
        (
            {"grid": ("client.strength=",)},
            "for example --grid strategy.epsilon=1,2,4",
            {"grid": ("strategy.epsilon=1,2,4",)},
        ),
        ({"seeds": "a"}, "for example 8, 3,5,9 or 1-4", {"seeds": "8"}, {"seeds": "3,5,9"}, {"seeds": "1-4"}),
    ),
    *cases(
        started,
        {"words": TINY},
        (
            {"words": (*TINY, *PEOPLE), "grid": ("data.tasks=20,30",)},
            "leave data.* out of the grid and fix the partition with --set data.seed=0",
            {"words": (*TINY, *PEOPLE, "data.seed=0"), "grid": ("client.strength=1,2",), "seeds": "2"},
        ),
        (
            {"words": (*TINY, *PEOPLE), "seeds": "2"},
            "leave data.* out of the grid and fix the partition with --set data.seed=0",
            {"words": (*TINY, *PEOPLE, "data.seed=0")},
        ),
        (
            {"words": (*TINY, "run.grid=ray"), "at_once": 2},
            "leave out --jobs, or run.grid=ray and run.address (and, of benchmark data, run.ledger)",
            {"words": TINY},
        ),
        (
            {"words": (*TINY, "run.ledger=all.sqlite"), "at_once": 2},
            "leave out --jobs, or run.grid=ray and run.address (and, of benchmark data, run.ledger)",
            {"words": TINY},
            {"at_once": GONE},
        ),
        (
            {"words": (*TINY, *PEOPLE), "at_once": 2},
            "leave out --jobs, or run.grid=ray and run.address (and, of benchmark data, run.ledger)",
            {"at_once": GONE},
        ),
    ),
    *cases(
        parse_assignments,
        {},
        ({"assignments": ["x"]}, "for example --set strategy.epsilon=2", {"assignments": ["strategy.epsilon=2"]}),
    ),
    *cases(Number, {}, ({}, "is required; give it a value", {"number": 3})),
]

# --- single functions ------------------------------------------------------------------------------------------------


def claimed(**cell: Any) -> Any:
    return claim(**cell)


def promised(by_hand: bool, **changes: Any) -> Guarantee:
    """What one release promises: accounted for, or an answer that was changed by hand."""
    found = guarantee_for({PLAIN: 1}, delta=1e-5, num_tasks=100)
    if not by_hand:
        assert (found.notion, found.epsilon) == (Notion.JOINT_DP, release_epsilon({PLAIN: 1}, 1e-5).value)
    return replace(found, **changes)


def fingerprinted(path: Path, number: Any = None, **changes: Any) -> None:
    """Register a population in a new ledger."""
    folder = path / str(next(COUNT))
    folder.mkdir()
    ledger = Ledger(folder / "people.sqlite" if number is None else number)
    known = {"fingerprint": "f", "num_tasks": 100, "declared": "protected", "budget": Target(epsilon=1.0)}
    ledger.register(changes.pop("population", "people"), **{**known, **changes})


COUNT: Iterator[int] = itertools.count()
AMPLIFIED = Release(noise_multiplier=9.0, sampling_name="poisson", rate=0.5, clipping_norm=1.0)
PLAIN = Release(noise_multiplier=9.0, sampling_name="full", rate=1.0, clipping_norm=1.0)


def paid(kind: Any, release: Release) -> float:
    return float(kind.for_budget(5.0, 1e-5).cost({release: 1}))


def drawn(**how: Any) -> Schedule:
    return Schedule.draw(np.array([4]), np.array([0]), Key(0, 1), batch_size=2, **how)


def fitted(rank: int, people: int = 2) -> Any:
    count = people * 3
    ratings = Ratings(np.repeat(np.arange(people), 3), np.tile(np.arange(3), people), np.arange(count, dtype=float))
    return fit_item_factors(ratings, 3, rank)


def summed(rows: Any) -> Any:
    return clipped_sum([rows], 1.0)


def stored(tasks: Any = None, dtype: str = "float32", value: float = 1.0) -> Any:
    models = PersonalModels(np.eye(3, 1), np.full((2, 1), value), np.zeros((2, 1), np.int64), np.ones((2, 1)))
    return models.predict(np.array([0, 1]) if tasks is None else tasks, np.zeros((2, 3)))


def judged(members: int = 6, others: int = 6, validation: int = 2) -> Any:
    return judge(np.arange(members, dtype=float), np.arange(others, dtype=float) - 3, validation)


def built(name: str, inputs: tuple[int, ...], outputs: int, **settings: Any) -> Any:
    return build_model(name, inputs, outputs, settings)


def protocol(**changes: Any) -> Protocol:
    known = {"question": "?", "report_seeds": (1, 2), "contrast": "paired", "refuted": "no", "preset": "digits"}
    return Protocol(**{**known, **changes})


ROWS = {"output": Output.ROWS, "observer": Observer.SERVER, "noise_at": NoiseAt.NODE, "sampling": ALL}

FUNCTIONS = [
    *cases(
        claimed,
        {"output": Output.BILLBOARDS, "observer": Observer.PUBLIC, "noise_at": NoiseAt.SERVER, "sampling": ALL},
        ({"output": Output.DIAGNOSTICS}, "publish billboards instead", {"output": Output.BILLBOARDS}),
        ({"observer": Observer.EXPERIMENTER}, "holds the data itself; name the {}.", {"observer": Observer.PUBLIC}),
        (
            {"output": Output.PERSONAL_MODELS, "observer": Observer.EXPERIMENTER},
            "holds the data itself; name the {}.",
            {"observer": Observer.COALITION},
        ),
        (
            {**ROWS, "observer": Observer.EXPERIMENTER},
            "holds the data itself; name the {}.",
            {"observer": Observer.SERVER},
        ),
        (
            {"output": Output.PERSONAL_MODELS, "observer": Observer.SERVER},
            "claim the rows or clipped sums that it sees",
            ROWS,
            {**ROWS, "output": Output.CLIPPED_SUM},
        ),
        ({"observer": Observer.SERVER, "noise_at": NoiseAt.NODE}, "claim rows or clipped sums with noise on", ROWS),
        (
            {"output": Output.ROWS},
            "claim the billboards for the public, or rows and sums with",
            {"output": Output.BILLBOARDS},
            ROWS,
        ),
        ({"noise_at": NoiseAt.NODE}, "claim those against the server", ROWS),
        (
            {"output": Output.PERSONAL_MODELS},
            "claim it against a coalition, or publish the billboards alone",
            {"observer": Observer.COALITION},
            {"output": Output.BILLBOARDS},
        ),
        (
            {**ROWS, "sampling": "min-separation"},
            "or all of them take part ('full')",
            {"sampling": POISSON},
            {"sampling": ALL},
        ),
        (
            {"observer": Observer.COALITION},
            "claim those against a coalition (joint DP)",
            {"observer": Observer.COALITION, "output": Output.PERSONAL_MODELS},
        ),
    ),
    *cases(
        promised,
        {"by_hand": True},
        ({"notion": Notion.DP}, "not {} under {}; use guarantee_for(...)", {"notion": GONE, "by_hand": False}),
        ({"epsilon": -1.0}, "must be at least 0, got {}; use guarantee_for(...)", {"epsilon": GONE, "by_hand": False}),
    ),
    *cases(
        RenyiFilter.at_order,
        {"order": 2.0, "delta": 1e-5},
        ({"epsilon": 1.0}, "leaves no budget; use a larger epsilon", {"epsilon": 30.0}),
    ),
    *cases(
        paid,
        {"kind": GdpFilter},
        (
            {"release": AMPLIFIED},
            "register the population with the filter 'renyi' (run.budget_filter), or let all tasks take part",
            {"kind": RenyiFilter},
            {"release": PLAIN},
        ),
    ),
    *cases(
        FixedSizeSampling,
        {"num_tasks": 5},
        ({"size": 6}, "at most the number of tasks, {}, got {}; draw fewer", {"size": 5}),
    ),
    *cases(
        drawn,
        {},
        ({"epochs": 1, "steps": 2}, "got epochs={} and steps={}; leave one out", {"epochs": GONE}, {"steps": GONE}),
    ),
    *cases(fitted, {}, ({"rank": 3}, "; lower it, or raise 'public'", {"rank": 2}, {"people": 3})),
    *cases(
        summed,
        {},
        (
            {"rows": np.array([[1j, 2.0]])},
            "send floats, integers or booleans",
            {"rows": np.ones((1, 2))},
            {"rows": np.ones((1, 2), int)},
            {"rows": np.ones((1, 2), bool)},
        ),
    ),
    *cases(
        stored, {}, ({"tasks": np.array([0.0, 1.0])}, "give the tasks' positions as int64", {"tasks": np.array([0, 1])})
    ),
    *cases(leading, {"matrix": np.eye(3)}, ({"rank": 4}, "features {}, got {}; use a smaller one", {"rank": 3})),
    *cases(
        judged,
        {},
        ({"others": 4}, "play the missing ones", {"others": 6}),
        (
            {"validation": 6},
            "play more games, or lower attack.validation (at least 1)",
            {"members": 8, "others": 8},
            {"validation": 1},
        ),
    ),
    *cases(
        contrast,
        {"first": [1.0, 2.0]},
        ({"second": [1.0]}, "; run the missing seeds", {"second": [1.0, 3.0]}),
    ),
    *cases(interval, {}, ({"values": []}, "run at least one seed", {"values": [1.0]})),
    *cases(
        built,
        {"inputs": (5,), "outputs": 1},
        ({"name": "low-rank", "outputs": 3}, "and the tasks have {}; use 'linear'", {"name": "linear"}),
        (
            {"name": "low-rank", "rank": 9},
            "'rank' must be at most the number of features {}, got {}; use a smaller one",
            {"rank": 5},
        ),
        (
            {"name": "low-rank", "inputs": (5000,), "rank": 2, "update": "newton"},
            "use update='gradient'",
            {"update": "gradient"},
        ),
        ({"name": "cnn"}, "got shape {}; use 'mlp'", {"name": "mlp"}),
        ({"name": "mlp", "hidden": 10**13}, "; make it smaller", {"hidden": 10}),
    ),
    *cases(Factored, {"net": nn.Linear(2, 1)}, ({"rank": 9}, "than it has; use a smaller rank", {"rank": 2})),
    *cases(
        protocol,
        {},
        (
            {"tuning": {"seeds": (1,)}},
            "was used for tuning; take another seed",
            {"report_seeds": (2, 3)},
        ),
        ({"preset": None}, "name one, or one for every point", {"preset": "digits"}),
    ),
]

# --- ledgers, accountants, files -------------------------------------------------------------------------------------

FILTERED = {"kind": RenyiFilter, "release": PLAIN}


def spent(epsilon: float = 0.5, **release: Any) -> float:
    known = {"noise_multiplier": 9.0, "sampling_name": "poisson", "rate": 0.5, "clipping_norm": 1.0}
    return float(release_epsilon({Release(**{**known, **release.pop("release", {})}): 1}, 1e-5, **release).value)


def noisy(noise: float = 1.0, total: float = 1.0, norm: float = 1.0) -> Any:
    return gaussian_sum([np.array([total])], norm, noise, ReproducibleEntropy(0), 1)


def release(**changes: Any) -> Release:
    return Release(**{"noise_multiplier": 1.0, "sampling_name": "full", "rate": 1.0, "clipping_norm": 1.0, **changes})


def allowed(**limits: Any) -> str:
    """What a node says to a request for rows with local noise."""
    decision = decide(NodePolicy(**limits), (), release(noise_at="node"), NoiseAt.NODE)
    if not decision.allowed:
        raise InputError(decision.reason)
    return decision.reason


def files(tmp: Path) -> list[Any]:
    """Cases that need a folder."""
    other = {"fingerprint": "other", "path": tmp}
    return [
        *cases(
            check_file,
            {},
            ({"file": tmp / "no" / "a.svg"}, "there is no folder {}; make it first", {"file": tmp / "a.svg"}),
        ),
        *cases(read_toml, {}, ({"path": tmp / "no.toml"}, "give the path of a TOML file", {"path": tmp / "one.toml"})),
        *cases(
            fingerprinted,
            {"path": tmp},
            ({"number": ""}, "name one, such as people.sqlite", {"number": tmp / "people.sqlite"}),
            ({"declared": "benchmark"}, "so it takes no budget; declare it 'protected'", {"declared": "protected"}),
            ({"population": ""}, "'population' must not be empty; give it an id", {"population": "people"}),
            ({"population": "\ud800"}, "must be text in UTF-8, got {}; give another id", {"population": "people"}),
            (
                {"number": tmp / "people.sqlite", **other},
                "was {}, got {}; use another id or another ledger",
                {"population": "others"},
                {"number": GONE},
            ),
            (
                {"number": tmp / "people.sqlite", "population": "twin"},
                "a second name would spend it twice. Use {}.",
                {"population": "people"},
            ),
        ),
        *cases(
            listed,
            {},
            (
                {"path": tmp / "nobody.sqlite"},
                "check the path, or register a population first",
                {"path": tmp / "people.sqlite"},
                {"first": "people"},
            ),
        ),
        *cases(
            accountant,
            {
                "folder": tmp,
                "population": "p",
                "run": "r",
                "clients": ["a", "b", "c"],
                "num_sampled_clients": 3,
                "delta": 1e-3,
            },
            ({"run": ""}, "that is not empty, got {}; give it a name", {"run": "r"}),
            (
                {"budget": 3.0, "delta": None},
                "must be a Target, got {}; say Target(epsilon=...)",
                {"budget": Target(epsilon=3.0)},
            ),
            ({"budget": Target(epsilon=3.0)}, "leave out both beside it", {"delta": None}),
            (
                {"num_sampled_clients": 2, "relation": Relation.ADD_REMOVE},
                "use relation = 'replace-one' (of the budget, if there is one), or let all clients take part",
                {"relation": Relation.REPLACE_ONE},
                {"num_sampled_clients": 3},
            ),
        ),
        *cases(
            saved,
            {"path": tmp / "models.safetensors"},
            ({"path": tmp / "no" / "m"}, "cannot be written ({}); choose another file", {"path": tmp / "m"}),
            ({"value": 1e300}, "use dtype='float64'", {"dtype": "float64"}),
        ),
        *cases(
            PersonalModels.open,
            {},
            ({"path": tmp / "no"}, "give the path of a file of models", {"path": tmp / "models.safetensors"}),
        ),
    ]


def listed(path: Path, first: str | None = None) -> None:
    """Read who is in a ledger."""
    if first is not None:
        fingerprinted(path.parent, path, population=first)
    assert "people" in Ledger(path).populations()


def accountant(folder: Path, **settings: Any) -> LedgerAccountant:
    """The accountant of a strategy of Flower's, with a ledger of its own."""
    return LedgerAccountant(folder / f"flower-{next(COUNT)}.sqlite", **settings)


def saved(path: Path, dtype: str = "float32", value: float = 1.0) -> None:
    models = PersonalModels(np.eye(3, 1), np.full((2, 1), value), np.zeros((2, 1), np.int64), np.ones((2, 1)))
    models.save(path, dtype=dtype)


ACCOUNTED = [
    *cases(
        spent,
        {},
        (
            {"accountant": "opacus-rdp", "relation": Relation.REPLACE_ONE},
            "use 'pld', 'rdp' or 'gaussian'",
            {"accountant": "pld"},
            {"accountant": "rdp"},
            {"accountant": "gaussian"},
        ),
    ),
    *cases(
        noisy,
        {},
        (
            {"total": float("nan")},
            "pass it through clipped_sum",
            {"total": float(clipped_sum([np.full((1, 1), 2.0)], 1.0)[0][0])},
        ),
        ({"noise": 1e-250, "norm": 1e-100}, "rounds to zero; use more", {"noise": 1.0}),
    ),
    *cases(
        release,
        {"noise_at": "node"},
        (
            {"sampling_name": "fixed-size", "rate": 0.5},
            "use mechanism='gaussian', and {} for cohorts of fixed size",
            {"sampling_name": "fixed-size-unamplified"},
            {"sampling_name": "full", "rate": 1.0},
        ),
    ),
    *cases(
        allowed,
        {"max_epsilon": 99.0},
        ({"relation": "add/remove"}, "set 'relation' to replace-one", {"relation": "replace-one"}),
    ),
]


def test_files_and_ledgers_that_follow_the_advice_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text("[data]\nname = 'digits'\n", encoding="utf-8")
    for one in files(tmp_path):
        case: Case = one.values[0]
        if case.make is fingerprinted and case.said.startswith(("was {}", "a second")):
            fingerprinted(tmp_path, tmp_path / "people.sqlite") if not (tmp_path / "people.sqlite").exists() else None
        if case.make is PersonalModels.open:
            saved(tmp_path / "models.safetensors")
        case.refused()
        case.followed()


@pytest.mark.parametrize("case", [*WORDS, *FUNCTIONS, *ACCOUNTED])
def test_words_and_functions_that_follow_the_advice_are_accepted(case: Case) -> None:
    case.refused()
    case.followed()
