"""``client.share``: what is not shared stays with its task; nobody else gets it, and no noise meets it."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from helpers import crash_at, toy_tasks
from hypothesis import given, settings
from hypothesis import strategies as st
from test_span import Fixed, problem_of, tasks_of
from test_span import trained as descended
from torch import nn

from fedpriv import ComponentFailure, Experiment, InputError, Tasks
from fedpriv.clients import (
    MAML,
    FedProx,
    FrozenLowRankSparse,
    GlobalModel,
    LocalOnly,
    LowRankSparse,
    LowRankSparseNet,
    MeanRegularized,
)
from fedpriv.cohort import KEPT, Cohort, KernelEngine, Key, LoopEngine, Params, Sharing, State, VmapEngine, nest, unnest
from fedpriv.cohort.fast import span
from fedpriv.config import apply, build_experiment, read_toml
from fedpriv.privacy.declaration import Declaration
from fedpriv.privacy.ledger import Ledger
from fedpriv.protocol import ALL, Reply, Request
from fedpriv.runs import CheckpointStore
from fedpriv.runs.checkpoint import read_states
from fedpriv.runtime.node import Node, NodeSpec
from fedpriv.runtime.pool import ShardPool
from fedpriv.strategies import Billboard, Silent

BODY = ["body.0.bias", "body.0.weight"]
HEAD = ["head.bias", "head.weight"]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(5, 6), nn.Tanh())
    return nn.Sequential(OrderedDict(body=body, head=nn.Linear(6, 3)))


def chain() -> nn.Sequential:
    """A network that has kernels of its own."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))


def experiment(client: Any, tasks: Tasks | None = None, **more: Any) -> Experiment:
    strategy: Any = Billboard(clipping_norm=0.5, sampling_rate=0.7, rounds=3, noise_multiplier=0.5)
    settings: dict[str, Any] = {"tasks": tasks or toy_tasks(6), "model": network(), "grid": "in-process", "shards": 2}
    settings |= {"strategy": strategy if client.sends_update else Silent(rounds=2), "dtype": "float64", "report": False}
    return Experiment(client=client, **settings | more)


def states(folder: Path, round: int) -> dict[str, Any]:
    """Return the personal states of a snapshot by name."""
    found: dict[str, list[Any]] = {}
    for name, _, rows in read_states(folder / "checkpoints", round):
        if name.startswith("state/"):
            found.setdefault(name.removeprefix("state/"), []).append(rows)
    return {name: np.concatenate(rows) for name, rows in found.items()}


CLIENTS = [
    GlobalModel(share="body.*"),
    FedProx(share="body.*", mu=0.5, final_epochs=1, final_strength=0.3),
    MeanRegularized(share="body.*", strength=(0.1, 1.0), final_epochs=1),
    MeanRegularized(share="body.*", strength=0.5, momentum=0.5, update="difference"),
]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("pattern", ["body.*", "0.*", "0.weight"])
def test_engines_agree(client: Any, pattern: str) -> None:
    """The loop, vmap and the kernels, with the first or the last layer shared, or half of one."""
    model = network() if pattern == "body.*" else chain()
    client = client.model_copy(update={"share": (pattern,)})
    how: dict[str, Any] = {"model": model, "baseline": False, "shards": 1}
    found = [experiment(client, engine=engine, **how).run(reproduce=3) for engine in ("loop", "vmap", "auto")]
    for other in found[1:]:
        assert other.billboards[ALL].keys() == found[0].billboards[ALL].keys()
        for name, value in found[0].billboards[ALL].items():
            np.testing.assert_allclose(other.billboards[ALL][name], value, atol=1e-10)
        for name, scores in found[0].scores.items():
            np.testing.assert_allclose(other.scores[name], scores, atol=1e-9)
    assert np.isfinite(found[0].scores["personal.loss"]).all()


@pytest.fixture(scope="module")
def always() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(span, "_TASK_COST", -1e12)
        yield


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    depth=st.integers(1, 2),
    pulled=st.sets(st.integers(0, 5)),
    momentum=st.sampled_from([0.0, 0.5]),
)
def test_only_what_an_anchor_holds_is_pulled(
    always: None, sizes: list[int], depth: int, pulled: set[int], momentum: float
) -> None:
    """In every engine, in the span of examples and by mini-batches, with any parameters left out of the anchor."""
    tasks, problem = tasks_of(sizes), problem_of(depth, bias=True, dtype=torch.float64)
    cohort = Cohort(tasks, np.arange(len(sizes)), torch.float64)
    names = list(problem.initial())
    anchor = {name: problem.initial()[name] for at, name in enumerate(names) if at in pulled}
    kernels = KernelEngine()
    kernels.tiles = Fixed(2)
    how = {"epochs": 2, "anchor": anchor, "strength": 1.5, "momentum": momentum}
    loop, vmap, fast = (descended(engine, cohort, problem, **how) for engine in (LoopEngine(), VmapEngine(), kernels))
    free = descended(LoopEngine(), cohort, problem, epochs=2, momentum=momentum)
    for name in names:
        torch.testing.assert_close(vmap[name], loop[name], rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(fast[name], loop[name], rtol=1e-9, atol=1e-10)
    if not anchor:
        assert all(torch.equal(loop[name], free[name]) for name in names)


def test_it_is_what_torch_computes_with_a_body_that_is_reset_and_a_head_that_goes_on() -> None:
    """One task, two rounds, no noise, a clip that never cuts: the body moves as published, the head stays at home."""
    tasks = toy_tasks(1, sizes=[8])
    strategy = Billboard(clipping_norm=1e6, sampling_rate=1.0, rounds=2, noise_multiplier=0.0, server_learning_rate=0.5)
    client = GlobalModel(share="body.*", learning_rate=0.3, batch_size=8, epochs=1)
    run = experiment(client, tasks, strategy=strategy, baseline=False).run(reproduce=3)
    hand = network().double()
    inputs, targets = torch.from_numpy(tasks.train.inputs).double(), torch.from_numpy(tasks.train.targets)
    for _ in range(2):
        hand.zero_grad()
        nn.functional.cross_entropy(hand(inputs), targets).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for name, value in hand.named_parameters():
                assert value.grad is not None
                value -= (0.15 if name in BODY else 0.3) * value.grad
    for name, value in hand.named_parameters():
        if name in BODY:
            np.testing.assert_allclose(run.billboards[ALL][name], value.detach().numpy(), rtol=1e-9)
    test = (torch.from_numpy(tasks.test.inputs).double(), torch.from_numpy(tasks.test.targets))
    loss = nn.functional.cross_entropy(hand(test[0]), test[1]).item()
    assert run.scores["personal.loss"][0] == pytest.approx(loss, rel=1e-9)
    assert "billboard.loss" not in run.scores, "a body alone is no model"


@pytest.mark.parametrize("grid", ["in-process", "ray"])
def test_what_stays_is_in_the_states_and_nowhere_else(pool: ShardPool, tmp_path: Path, grid: str) -> None:
    strategy = Billboard(clipping_norm=0.5, sampling_rate=1.0, rounds=3, noise_multiplier=0.5, reply="rows")
    client = MeanRegularized(share="body.*", learning_rate=0.3)
    more = {"strategy": strategy, "checkpoint_every": 2, "grid": grid}
    run = experiment(client, **more)
    result = run.run(tmp_path / "run", reproduce=2, pool=pool)
    store = CheckpointStore(tmp_path / "run/checkpoints")
    assert all(sorted(store.load(number).billboards[ALL]) == BODY for number in store.rounds())
    kept = states(tmp_path / "run", 2)
    assert sorted(kept) == sorted([*nest("model", dict.fromkeys(BODY)), *nest(KEPT, dict.fromkeys(HEAD)), "strength"])
    first = Sharing.of(client, run.problem()).kept
    for name in HEAD:
        rows = kept[f"{KEPT}/{name}"]
        assert np.abs(rows - first[name].numpy()).reshape(6, -1).max(axis=1).min() > 1e-3, "every task trained its own"
        assert np.abs(rows[0] - rows[1]).max() > 1e-3
    said = " ".join(result.summary["warnings"])
    assert "36 numbers of the model are shared, and 21 stay with each task (client.share)" in said
    if grid == "ray":
        other = experiment(client, **more | {"grid": "in-process", "shards": 3}).run(reproduce=2)
        for name, value in other.billboards[ALL].items():
            np.testing.assert_allclose(result.billboards[ALL][name], value, atol=1e-10)
        for name, scores in other.scores.items():
            np.testing.assert_allclose(result.scores[name], scores, atol=1e-9)


class Leaky(GlobalModel):
    """Sends all that it trained."""

    keeps_parts: ClassVar[bool] = True

    def train(self, learner: Any, billboard: Params, state: State, cohort: Cohort, key: Key) -> tuple[State, Params]:
        state, sent = super().train(learner, billboard, state, cohort, key)
        return state, sent | unnest(KEPT, state)


class Forgets(GlobalModel):
    """Trains the whole model, and gives back nothing of what stays with the task."""

    keeps_parts: ClassVar[bool] = True

    def train(self, learner: Any, billboard: Params, state: State, cohort: Cohort, key: Key) -> tuple[State, Params]:
        return {}, super().train(learner, billboard, state, cohort, key)[1]


def test_a_client_that_sends_what_stays_or_forgets_it_is_refused_before_it_sees_data() -> None:
    with pytest.raises(InputError, match=r"Leaky\.train must return an update of the billboard's names and shapes"):
        experiment(Leaky(share="body.*")).check()
    words = r"Forgets says keeps_parts = True, .*\['head\.bias', 'head\.weight'\]; return these in nest\(KEPT, \.\.\.\)"
    with pytest.raises(InputError, match=words):
        experiment(Forgets(share="body.*")).check()
    experiment(Forgets()).check()


def asked(
    node: Node, task: int, billboard: dict[str, Any], *, round: int = 1, reply: Any = "rows", norm: float = 1e6
) -> Reply:
    request = Request(round, {ALL: billboard}, {ALL: np.array([task])}, reply, Declaration(norm, 0.0))
    return Reply.from_content(node.train(request.to_content()))


def node(client: Any, tasks: Tasks | None = None, **more: Any) -> Node:
    return Node(NodeSpec(tasks or toy_tasks(3), client, experiment(client).problem(), **more))


def public(of: Node, shift: float = 0.0) -> dict[str, Any]:
    return {name: value.numpy() + shift for name, value in of.sharing.billboard.items()}


@pytest.mark.parametrize("engine", ["auto", "loop"])
def test_a_node_sends_nothing_of_what_stays_whatever_its_client_gives(engine: str) -> None:
    """A client that came past the dry run counts as zero; an honest one sends what is shared."""
    honest = asked(node(GlobalModel(share="body.*"), engine=engine), 1, public(node(GlobalModel(share="body.*"))))
    assert sorted(honest.updates[ALL]) == BODY
    assert max(np.abs(value).max() for value in honest.updates[ALL].values()) > 1e-3
    leaking = node(Leaky(share="body.*"), engine=engine)
    answer = asked(leaking, 1, public(leaking))
    assert sorted(answer.updates[ALL]) == BODY
    assert all(not value.any() for value in answer.updates[ALL].values())
    assert answer.diagnostics["failed"] == 1


def test_a_node_refuses_a_billboard_that_holds_what_stays() -> None:
    one = node(GlobalModel(share="body.*"))
    whole = public(one) | {name: value.numpy() for name, value in one.sharing.kept.items()}
    words = "a billboard holds 'head.bias', which stays with each task; give server and nodes one client.share"
    with pytest.raises(InputError, match=words):
        asked(one, 0, whole)
    with pytest.raises(InputError, match="other arrays than are shared"):
        asked(one, 0, {"body.0.bias": whole["body.0.bias"]})
    asked(one, 0, public(one))


def test_who_takes_part_for_the_first_time_starts_from_the_billboard_and_public_values() -> None:
    """Whatever the other tasks of the node did before; who comes again goes on with its own head."""
    client = GlobalModel(share="body.*", learning_rate=0.5, epochs=3)
    used, fresh = node(client), node(client)
    for round in (1, 2):
        asked(used, 0, public(used), round=round)
    before = {name: value.clone() for name, value in used.sharing.kept.items()}
    mine, alone = (asked(one, 1, public(one, 0.1), round=3) for one in (used, fresh))
    again, anew = (asked(one, 0, public(one, 0.1), round=4) for one in (used, fresh))
    for name in BODY:
        np.testing.assert_array_equal(mine.updates[ALL][name], alone.updates[ALL][name])
    assert any(np.abs(again.updates[ALL][name] - anew.updates[ALL][name]).max() > 1e-3 for name in BODY)
    assert all(torch.equal(used.sharing.kept[name], value) for name, value in before.items())


def test_who_writes_into_its_first_state_changes_nobody_else_s() -> None:
    sharing = Sharing.of(GlobalModel(share="body.*"), experiment(GlobalModel()).problem())
    cohort = Cohort(toy_tasks(1), np.arange(1), torch.float64)
    before = {name: value.clone() for name, value in sharing.kept.items()}
    for value in sharing.first_state(GlobalModel(), sharing.billboard, cohort).values():
        value += 1.0
    again = sharing.first_state(GlobalModel(), sharing.billboard, cohort)
    assert all(torch.equal(again[f"{KEPT}/{name}"][0], value) for name, value in before.items())


def test_the_clipping_norm_counts_shared_numbers_only() -> None:
    """A bound that the whole model exceeds and the body keeps cuts nothing; a bound below the body's cuts to it."""
    client = GlobalModel(share="body.*", learning_rate=0.05, epochs=1)

    def norm(bound: float) -> float:
        one = node(client)
        return float(
            np.sqrt(sum(np.square(v).sum() for v in asked(one, 0, public(one), norm=bound).updates[ALL].values()))
        )

    one = node(client)
    free = norm(1e6)
    asked(one, 0, public(one))
    kept = {name: one.store._values[f"{KEPT}/{name}"][0] - value for name, value in one.sharing.kept.items()}
    head = float(torch.sqrt(sum((value.square().sum() for value in kept.values()), start=torch.zeros(()))))
    assert head > 0.1 * free
    assert norm(1.01 * free) == pytest.approx(free, rel=1e-9)
    assert norm(0.5 * free) == pytest.approx(0.5 * free, rel=1e-9)


@pytest.mark.parametrize(("share", "name"), [((), "fixed-size"), ("body.*", "fixed-size-unamplified")])
def test_updates_depend_on_rounds_before_where_something_stays(tmp_path: Path, share: Any, name: str) -> None:
    strategy = Billboard(
        clipping_norm=0.5, sampling="fixed-size", sampling_rate=0.5, rounds=2, noise_multiplier=4.0, delta=1e-3
    )
    experiment(GlobalModel(share=share), toy_tasks(8), strategy=strategy).run(tmp_path / "run")
    entries = Ledger(tmp_path / "run/ledger.sqlite").entries("toy")
    assert {one.release.sampling_name for one in entries} == {name}
    assert node(GlobalModel(share=share)).spec.algorithm.uses_state == bool(share)


@pytest.mark.parametrize("moment", ["before stage", "after promote"])
def test_a_run_goes_on_with_what_stays(tmp_path: Path, monkeypatch: Any, moment: str) -> None:
    """From a snapshot that holds it, or trained again from the rounds since."""
    client = GlobalModel(share="body.*", learning_rate=0.3, final_epochs=1)
    strategy = Billboard(clipping_norm=0.5, sampling_rate=0.7, rounds=6, noise_multiplier=0.5)
    run = experiment(client, strategy=strategy, checkpoint_every=2)
    whole = run.run(reproduce=4)
    with crash_at(monkeypatch, moment, 4):
        run.run(tmp_path / "run", reproduce=4)
    resumed = run.model_copy(update={"shards": 3}).run(tmp_path / "run", reproduce=4, resume=True)
    for name, value in whole.billboards[ALL].items():
        np.testing.assert_allclose(resumed.billboards[ALL][name], value, rtol=1e-9)
    np.testing.assert_allclose(resumed.scores["personal.loss"], whole.scores["personal.loss"], rtol=1e-9)


def test_a_run_may_not_go_on_with_another_share(tmp_path: Path, monkeypatch: Any) -> None:
    with crash_at(monkeypatch, "before stage", 2):
        experiment(GlobalModel(share="body.*")).run(tmp_path / "run", reproduce=4)
    with pytest.raises(InputError, match=r"client\.share was \['body\.\*'\] .* resume with the old value"):
        experiment(GlobalModel()).run(tmp_path / "run", reproduce=4, resume=True)


@pytest.mark.parametrize("pattern", ["body.*", "0.*"])
def test_alone_a_task_has_the_whole_model_and_so_have_people_held_out(pattern: str) -> None:
    model = network() if pattern == "body.*" else chain()
    later = replace(toy_tasks(4, seed=3), names=tuple("wxyz"))
    shared, plain = (
        experiment(GlobalModel(share=share, final_epochs=2), model=model, held_out=later, engine=engine).run(
            reproduce=1
        )
        for share, engine in ((pattern, "auto"), ((), "loop"))
    )
    np.testing.assert_allclose(shared.scores["local_only.loss"], plain.scores["local_only.loss"], atol=1e-9)
    found = shared.summary["diagnostics"]["held_out"]
    assert found["people"] == 4
    assert {"billboard", "scratch"} <= found.keys()


class Publishes(Billboard):
    """Publishes an array beside the noisy ones."""

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        found = super().aggregate_train(server_round, replies)
        checkpoint = self.session.checkpoint
        more = {ALL: {**checkpoint.billboards[ALL], "head.bias": np.zeros(3)}}
        self.session.checkpoint = replace(checkpoint, billboards=more)
        from fedpriv.protocol import record_from_billboards

        return record_from_billboards(more), found[1]


def test_a_strategy_that_publishes_what_stays_stops_the_run() -> None:
    strategy = Publishes(clipping_norm=0.5, rounds=3, noise_multiplier=0.5)
    with pytest.raises(ComponentFailure, match="billboards that no release was charged for"):
        experiment(GlobalModel(share="body.*"), strategy=strategy).run(reproduce=1)


@pytest.mark.parametrize(
    ("share", "words", "mended"),
    [
        (
            "bdy.*",
            r"'bdy\.\*' matches no parameter of the model: did you mean 'body\.0\.bias'\? known are",
            "body.0.bias",
        ),
        (("body.*", "nose"), "'nose' matches no parameter of the model: known are body", "body.*"),
        ("*", r"\['\*'\] matches all 4 parameters of the model, so nothing would stay with the task; leave it out", ()),
        (("body*", "head*"), "matches all 4 parameters", "body*"),
    ],
)
def test_patterns_that_match_nothing_or_everything_are_refused(share: Any, words: str, mended: Any) -> None:
    with pytest.raises(InputError, match=f"client.share.*{words}"):
        experiment(GlobalModel(share=share)).check()
    experiment(GlobalModel(share=mended)).check()


def test_frozen_parameters_are_public_and_neither_shared_nor_kept() -> None:
    model = network()
    model.body[0].bias.requires_grad_(False)  # type: ignore[index]
    run = experiment(GlobalModel(share="body.*"), model=model)
    result = run.run(reproduce=1)
    assert sorted(result.billboards[ALL]) == ["body.0.weight"]
    with pytest.raises(InputError, match=r"'\*\.0\.bias' matches frozen parameters only, such as 'body\.0\.bias'"):
        experiment(GlobalModel(share="*.0.bias"), model=model).check()
    model.body[0].bias.requires_grad_(True)  # type: ignore[index]
    experiment(GlobalModel(share="*.0.bias"), model=model).check()


class Older(MeanRegularized):
    """Written before there was anything to keep."""

    def train(self, learner: Any, billboard: Params, state: State, cohort: Cohort, key: Key) -> tuple[State, Params]:
        return super().train(learner, billboard, state, cohort, key)


@pytest.mark.parametrize(
    "client",
    [LocalOnly, MAML, LowRankSparse, FrozenLowRankSparse, LowRankSparseNet, Older],
    ids=lambda kind: kind.__name__,
)
def test_clients_that_share_all_or_nothing_refuse(client: Any) -> None:
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", client.__name__).lower()
    words = f"the client '{name}' shares its whole model or nothing; leave out client.share, or use 'global-model'"
    with pytest.raises(InputError, match=words):
        Sharing.of(client(share="body.*"), experiment(GlobalModel()).problem())
    assert not client.keeps_parts
    assert Sharing.of(client(), experiment(GlobalModel()).problem()).kept == {}
    for other in (GlobalModel, FedProx, MeanRegularized):
        experiment(other(share="body.*")).check()


class Mixes(MeanRegularized):
    """Has a setting of this name that it had before there was one."""

    share: float = 0.5  # type: ignore[assignment]


class MixesMore(Mixes):
    """Inherits it."""


@pytest.mark.parametrize("client", [Mixes, MixesMore])
def test_a_client_of_one_s_own_may_call_another_setting_so(client: Any) -> None:
    run = experiment(client(share=0.0))
    assert run.describe()["client"]["share"] == 0.0
    assert not client(share=0.7).patterns
    assert len(run.run(reproduce=1).billboards[ALL]) == 4
    assert client.updates_use_state


def test_metrics_of_the_billboard_cannot_be_published(tmp_path: Path) -> None:
    published: dict[str, Any] = {"metrics": "billboard.accuracy", "metrics_every": 1, "metrics_epsilon": 1.0}
    how: dict[str, Any] = {"clipping_norm": 0.5, "rounds": 1, "noise_multiplier": 1.0, "delta": 1e-3}
    with pytest.raises(InputError, match=r"of a model that nobody uses .*client\.share\); publish personal"):
        experiment(GlobalModel(share="body.*"), strategy=Billboard(**how, **published))
    run = experiment(
        GlobalModel(share="body.*"), strategy=Billboard(**how, **published | {"metrics": "personal.accuracy"})
    )
    assert list(run.run(tmp_path / "run").summary["metrics"]["means"][0]["values"]) == ["personal.accuracy"]


def test_from_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(
        '[data]\nname = "digits"\ntasks = 20\nalpha = 1.0\n[model]\nname = "mlp"\nhidden = 6\n'
        '[client]\nname = "global-model"\nshare = "1.*"\n'
        '[strategy]\nclipping_norm = 0.5\nrounds = 1\nnoise_multiplier = 1.0\n[run]\ngrid = "in-process"\n'
    )
    config = read_toml(path)
    assert build_experiment(config).client.share == ("1.*",)
    changed = build_experiment(apply(config, {"client.share": ["3.*"]}))
    assert changed.describe()["client"]["share"] == ["3.*"]
    assert sorted(changed.run(reproduce=1).billboards[ALL]) == ["3.bias", "3.weight"]
