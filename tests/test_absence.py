"""Nodes that are away, late or fail, and tasks that fail or never end: one task's data never decide over others."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Error, Message
from helpers import C, experiment, noisy, toy_tasks
from test_billboard import Fragile

from fedpriv import ComponentFailure, Experiment, InputError
from fedpriv.clients import GlobalModel, LocalOnly, MeanRegularized
from fedpriv.cohort import Cohort, Key, Learner, VmapEngine
from fedpriv.privacy.guarantee import REACHED
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.policy import NodePolicy
from fedpriv.protocol import ALL, Reply, Request
from fedpriv.runtime import limit, node, stock
from fedpriv.runtime.flower_private import new_context, set_identity
from fedpriv.runtime.grid import InProcessGrid, Worker
from fedpriv.runtime.limit import TaskTimeout, TimeLimit
from fedpriv.runtime.store import StateStore
from fedpriv.strategies import Billboard, Silent
from fedpriv.strategies.exchange import UNREACHABLE, lifetime

Fate = Callable[[int, str, str, int], int | str | None]
SUPERLINK = 1


class Weather(InProcessGrid):
    """Nodes behind a SuperLink: a fate may keep a message from its node, or an answer from the server.

    A fate gets node, kind and round of a message and how often they were asked, and returns an error's code, "late"
    (the node does the work and its answer is lost), or None.
    """

    def __init__(self, specs: Any, fate: Fate) -> None:
        super().__init__(specs)
        self.fate, self.asked = fate, Counter[tuple[int, str, str]]()

    def deliver(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
        replies = []
        for message in messages:
            of = message.metadata
            key = (of.dst_node_id, of.message_type, of.group_id)
            self.asked[key] += 1
            fate = self.fate(*key, self.asked[key])
            if isinstance(fate, int):
                reply = Message(Error(code=fate, reason="the fate"), reply_to=message)
                if fate in UNREACHABLE:
                    reply.metadata.__dict__["_src_node_id"] = SUPERLINK
                replies.append(reply)
                continue
            done = super().deliver([message], timeout)
            replies += [] if fate == "late" else done
        return replies


def under(fate: Fate, run: Experiment, out: Path | None = None, **more: Any) -> tuple[Any, Weather]:
    grid = Weather(run.specs(run.problem(), run.num_shards, 7), fate)
    return run.run(out, reproduce=7, on=grid, **more), grid


def equal(one: Any, two: Any) -> None:
    for name, value in one.billboards[ALL].items():
        np.testing.assert_array_equal(two.billboards[ALL][name], value)
    for name, scores in one.scores.items():
        np.testing.assert_array_equal(two.scores[name], scores)


def personal(**changes: Any) -> Experiment:
    client = MeanRegularized(strength=0.5, learning_rate=0.3, final_epochs=2)
    return experiment(toy_tasks(7), **{"client": client, "strategy": noisy(), "shards": 3, "seed": 7} | changes)


class AwayInRoundTwo(GlobalModel):
    """Tasks 2 and 3 fail in round 2, so they count as zero."""

    def train(self, learner: Any, billboard: Any, state: Any, cohort: Any, key: Any) -> Any:
        if key.round == 2 and set(cohort.ids.tolist()) & {2, 3}:
            raise ValueError("away")
        return super().train(learner, billboard, state, cohort, key)


@pytest.mark.parametrize("code", sorted(UNREACHABLE))
def test_what_cannot_be_reached_counts_as_zero_under_an_assumption_that_is_said(code: int, tmp_path: Path) -> None:
    """The sum is that of a simulation in which these tasks send zeros: same noise, same public denominator."""
    tasks, strategy = toy_tasks(6), noisy(sampling_rate=1.0)
    zeros = experiment(tasks, client=AwayInRoundTwo(), strategy=strategy, shards=3, seed=7).run(reproduce=7)
    run = experiment(tasks, client=GlobalModel(), strategy=strategy, shards=3, seed=7)
    found, grid = under(lambda node, kind, round, _: code if (node, round) == (2, "2") else None, run, tmp_path / "run")
    assert grid.asked[2, "train", "2"] == 1, "nobody waits for who is away"
    equal(zeros, found)
    assert len(found.summary["releases"]) == 4, "what is charged does not depend on who came"
    assert found.guarantee.epsilon == zeros.guarantee.epsilon
    assert (found.summary["unreachable"]["tasks"], found.summary["unreachable"]["share"]) == (2, 2 / 24)
    assert REACHED in found.guarantee.assumptions
    assert REACHED in str(found.guarantee)
    assert REACHED in str(found.personal_guarantee)
    assert any("2 answers of tasks (8.33% of those expected)" in line for line in found.summary["warnings"])
    assert REACHED not in str(zeros.guarantee)


def test_a_run_that_goes_on_still_says_what_could_not_be_reached(tmp_path: Path, monkeypatch: Any) -> None:
    run = personal(strategy=noisy(sampling_rate=1.0))

    def away(node: int, kind: str, round: str, _: int) -> int | None:
        return {(2, "2"): 5, (1, "4"): 2}.get((node, round))

    monkeypatch.setattr("fedpriv.experiment.execution.InProcessGrid", lambda specs: Weather(specs, away))
    with pytest.raises(ComponentFailure, match="node 1"):
        run.run(tmp_path / "run", reproduce=7)
    monkeypatch.setattr("fedpriv.experiment.execution.InProcessGrid", InProcessGrid)
    found = run.run(tmp_path / "run", reproduce=7, resume=True)
    assert found.summary["unreachable"]["tasks"] == 3
    assert REACHED in str(found.guarantee)


ONCE: dict[str, Fate] = {
    "failed": lambda node, kind, round, asked: 2 if node == 2 and asked == 1 else None,
    "its answer expired": lambda node, kind, round, asked: {1: 4, 2: 3}.get(asked) if node == 2 else None,
    "twice": lambda node, kind, round, asked: 8 if node == 2 and asked < 3 else None,
    "late": lambda node, kind, round, asked: "late" if node == 2 and asked == 1 and kind != "query.tasks" else None,
    "late, then failed": lambda node, kind, round, asked: (
        None if node != 2 or kind == "query.tasks" else {1: "late", 2: 1}.get(asked)
    ),
}
ONCE = {
    name: (
        lambda node, kind, round, asked, fate=fate: None if kind == "query.tasks" else fate(node, kind, round, asked)
    )
    for name, fate in ONCE.items()
}


@pytest.mark.parametrize("at", ["server", "node"])
@pytest.mark.parametrize("fate", ONCE.values(), ids=ONCE)
def test_a_node_of_several_tasks_is_asked_again_and_nothing_is_done_twice(fate: Fate, at: Any) -> None:
    """In every exchange: rounds, metrics, the final fit, scores. To the bit, personal states and noise included."""
    more: dict[str, Any] = {"noise_at": "node", "reply": "rows"} if at == "node" else {"metrics": ("personal.loss",)}
    if at == "server":
        more |= {"metrics_every": 2, "metrics_epsilon": 1.0}
    run = personal(strategy=noisy(evaluate_every=2, **more), baseline=True)
    quiet, _ = under(lambda *_: None, run)
    found, grid = under(fate, run)
    equal(quiet, found)
    assert found.summary["releases"] == quiet.summary["releases"]
    assert found.summary.get("metrics") == quiet.summary.get("metrics")
    assert found.summary["warnings"] == quiet.summary["warnings"]
    kinds = {kind for (node, kind, _), count in grid.asked.items() if node == 2 and count > 1}
    assert {"train", "train.finish", "evaluate", "evaluate.local_only"} <= kinds
    assert all(count == 1 for (node, _, _), count in grid.asked.items() if node != 2), "others are not asked again"


def test_a_node_that_failed_in_the_middle_goes_on_there(monkeypatch: Any) -> None:
    """What was through stays through: else some tasks would train twice in a round, and grant it twice."""
    monkeypatch.setattr(node, "_CHUNK_BYTES", 1)  # every task is a cohort
    policy = NodePolicy(max_participations=4, diagnostics=True)
    run = personal(shards=1, policy=policy, strategy=noisy(sampling_rate=1.0))
    quiet = run.run(reproduce=7)
    original, writes = StateStore.write, Counter[str]()

    def write(self: StateStore, positions: Any, state: Any) -> None:
        writes["all"] += 1
        if writes["all"] in (4, 12, 13):
            raise OSError("no space")
        original(self, positions, state)

    monkeypatch.setattr(StateStore, "write", write)
    found = run.run(reproduce=7)
    assert writes["all"] == 3 + 5 * 7
    equal(quiet, found)
    assert "refused" not in str(found.summary["warnings"])


@pytest.mark.parametrize(
    ("fate", "why"),
    [
        (lambda asked: 2, "the fate"),
        (lambda asked: "late", "did not answer within 100 s"),
        (lambda asked: 2 if asked == 1 else 5, "the fate"),  # it was there, and its data may be why it is away now
    ],
    ids=["failed", "late", "failed, then away"],
)
def test_a_node_of_several_tasks_that_keeps_failing_stops_the_run(fate: Any, why: str, tmp_path: Path) -> None:
    run = personal(timeout=100.0, attempts=3)
    quiet, _ = under(lambda *_: None, run)
    stopped = r"node 2, which hosts 3 tasks, failed in round 3 in 3 of 3 attempts: .*" + why
    with pytest.raises(ComponentFailure, match=stopped + r".*go on with --resume") as caught:
        under(
            lambda node, kind, round, asked: fate(asked) if (node, round) == (2, "3") else None, run, tmp_path / "run"
        )
    assert caught.value.exit_code == 4
    ledger = Ledger(tmp_path / "run/ledger.sqlite")
    assert len(ledger.entries(ledger.populations()[0])) == 2
    equal(quiet, run.run(tmp_path / "run", reproduce=7, resume=True))


@pytest.mark.parametrize(("fate", "word"), [(2, "failed"), ("late", "late"), (5, "unreachable")])
def test_a_node_of_one_task_counts_as_zero_by_itself(fate: Any, word: str) -> None:
    tasks, strategy = toy_tasks(6), noisy(sampling_rate=1.0)
    run = experiment(tasks, client=GlobalModel(), strategy=strategy, shards=6, seed=7)
    found, grid = under(lambda node, kind, round, _: fate if node in (3, 4) and round == "2" else None, run)
    zeros = experiment(tasks, client=AwayInRoundTwo(), strategy=strategy, shards=6, seed=7).run(reproduce=7)
    equal(zeros, found)
    assert grid.asked[3, "train", "2"] == 1
    assert f"2 {word}" in found.summary["warnings"][-1]
    assert (found.summary["unreachable"]["tasks"] > 0) == (word == "unreachable")


def test_what_is_missing_after_training_is_said_and_does_not_stop_the_run() -> None:
    def away(node: int, kind: str, round: str, _: int) -> int | None:
        late = {"evaluate": 5, "evaluate.local_only": 2, "train.finish": 5}
        return late.get(kind) if node == 2 and round == "0" else None

    run = personal(baseline=True, strategy=noisy(sampling_rate=1.0))
    quiet, _ = under(lambda *_: None, run)
    found, _ = under(away, run)
    for name, scores in quiet.scores.items():
        assert np.isnan(found.scores[name][[2, 3, 4]]).all()
        there = [0, 1, 5, 6]
        np.testing.assert_array_equal(found.scores[name][there], scores[there])
    said = "\n".join(found.summary["warnings"])
    for words in ("had no final fit", "gave no scores, since", "gave no scores of the local-only reference"):
        assert f"3 tasks {words}" in said
    assert REACHED not in str(found.guarantee), "no release is touched"


def test_a_final_fit_that_keeps_failing_stops_the_run() -> None:
    with pytest.raises(ComponentFailure, match="node 2, which hosts 3 tasks, failed in the final fit"):
        under(lambda node, kind, *_: 2 if (node, kind) == (2, "train.finish") else None, personal())


def test_metrics_of_a_failing_node_are_asked_for_again_and_those_of_one_that_is_away_are_zeros() -> None:
    strategy = noisy(metrics=("personal.accuracy",), metrics_epsilon=1e6, noise_multiplier=0.0)
    run = personal(strategy=strategy)
    quiet, _ = under(lambda *_: None, run)
    kind = "train.metrics"
    with pytest.raises(ComponentFailure, match="to measure after round 4"):
        under(lambda node, asked, *_: 2 if (node, asked) == (2, kind) else None, run)
    found, _ = under(lambda node, asked, *_: 5 if (node, asked) == (2, kind) else None, run)
    (whole,), (part,) = (
        [one["values"]["personal.accuracy"] for one in r.summary["metrics"]["means"]] for r in (quiet, found)
    )
    scores = quiet.scores["personal.accuracy"]
    assert whole == pytest.approx(scores.mean(), abs=0.02)
    missing = 3 * 0.5  # what a task contributes is counted from the middle of its range
    assert part == pytest.approx((scores[[0, 1, 5, 6]].sum() + missing) / 7, abs=0.02)
    assert REACHED in str(found.guarantee)


def test_silence_on_a_failing_node_follows_the_same_rule() -> None:
    run = experiment(toy_tasks(6), client=LocalOnly(), strategy=Silent(rounds=2), shards=3, seed=7)
    _, grid = under(lambda node, kind, round, asked: 2 if (node, round, asked) == (2, "1", 1) else None, run)
    assert grid.asked[2, "train", "1"] == 2
    with pytest.raises(ComponentFailure, match="node 2"):
        under(lambda node, kind, round, _: 2 if (node, round) == (2, "1") else None, run)


def test_a_refusal_by_policy_is_counted_and_depends_on_what_was_asked_only() -> None:
    """The same count where every task fails."""
    for client in (GlobalModel(), Fragile()):
        policy, strategy = NodePolicy(max_participations=2), noisy(sampling_rate=1.0)
        found = experiment(toy_tasks(6), client=client, policy=policy, strategy=strategy, shards=3).run(reproduce=7)
        assert "(12 refused)" in found.summary["warnings"][-1]
        assert found.summary["unreachable"]["tasks"] == 0


def test_messages_live_longer_than_their_answers_are_waited_for() -> None:
    """Else a SuperLink drops the message of a late node, and its tasks would count as those of one that is away."""
    for timeout in (1.0, 3600.0, 86400.0 * 7):
        assert lifetime(timeout) > timeout
    seen: list[float] = []

    def note(*_: Any) -> None:
        return None

    class Noted(Weather):
        def deliver(self, messages: Sequence[Message], timeout: float | None) -> list[Message]:
            seen.extend(one.metadata.ttl - (timeout or 0.0) for one in messages if one.metadata.group_id)
            return super().deliver(messages, timeout)

    run = personal(timeout=86400.0 * 7)
    run.run(reproduce=7, on=Noted(run.specs(run.problem(), 2), note))
    assert seen
    assert min(seen) > 0


class Poison(torch.nn.Module):
    """A linear model that does what it is told on inputs above a threshold: stands for what one task's data can do."""

    def __init__(self, what: Callable[[], Any]) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(5, 3)
        self.what = what

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if float(inputs.max()) > 1e3:
            self.what()
        output: torch.Tensor = self.layer(inputs)
        return output

    def __deepcopy__(self, _: Any) -> Poison:  # what it waits for cannot be copied
        copy = Poison(self.what).to(self.layer.weight.dtype)
        copy.load_state_dict(self.state_dict())
        return copy


def raising(error: type[BaseException]) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def spin() -> None:
    while True:
        pass


def deaf() -> None:
    """Ends for nothing but what is no Exception, and swallows that twice."""
    for _ in range(2):
        with suppress(SystemExit):
            spin()
    spin()


def sleep() -> None:
    threading.Event().wait()


POISONS = {
    "RecursionError": raising(RecursionError),
    "MemoryError": raising(MemoryError),
    "SystemExit": raising(SystemExit),
    "KeyboardInterrupt": raising(KeyboardInterrupt),
    "GeneratorExit": raising(GeneratorExit),
    "endless": spin,
    "endless and deaf": deaf,
    "asleep": sleep,
}


def poisoned(what: Callable[[], Any], **changes: Any) -> Experiment:
    tasks = toy_tasks(4, sizes=[4, 5, 6, 7])
    tasks.train.inputs[tasks.train.rows(1)] = 1e4
    tasks.test.inputs[tasks.test.rows(2)] = 1e4  # one that trains, and cannot be scored
    strategy = Billboard(clipping_norm=C, rounds=1, noise_multiplier=0.0)
    settings = {"model": Poison(what), "engine": "loop", "strategy": strategy, "client": GlobalModel(), "shards": 1}
    return experiment(changes.pop("tasks", tasks), **settings | changes)


@pytest.mark.parametrize(("name", "engine"), [*((name, "loop") for name in POISONS), ("endless", "auto")])
def test_whatever_a_task_does_it_alone_counts_as_zero(name: str, engine: Any) -> None:
    """In training and in scoring; what never ends, too."""
    there = set(threading.enumerate())
    torch.manual_seed(0)
    reference = poisoned(raising(ValueError)).run(reproduce=0)
    slow = {"task_seconds": 0.05 if name == "asleep" else 0.3} if POISONS[name] in (spin, deaf, sleep) else {}
    torch.manual_seed(0)
    found = poisoned(POISONS[name], engine=engine, **slow).run(reproduce=0)
    equal(reference, found)
    said = " ".join(found.summary["warnings"])
    assert "1 failed" in said
    assert "task 'task-1' failed in stage 'train'" in said
    assert np.isnan(found.scores["personal.accuracy"]).tolist() == [False, False, True, False]
    if POISONS[name] in (spin, deaf):
        for thread in threading.enumerate():
            if thread.name == "fedpriv-task" and thread not in there:
                thread.join(60)
                assert not thread.is_alive(), "what was left behind comes to an end"


class Crossing(torch.nn.Module):
    """A linear model in which one task sleeps until the next one is in the middle of its own work."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(5, 3)
        self.met = False

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if float(inputs.max()) > 1e3:
            go.wait(60)
            raise ValueError
        left = {one for one in threading.enumerate() if one.name == "fedpriv-task"}
        for thread in left - before - {threading.current_thread()}:
            go.set()
            thread.join(60)
            met.append(thread)
        output: torch.Tensor = self.layer(inputs)
        return output


go, met, before = threading.Event(), list[threading.Thread](), set[threading.Thread]()


def test_what_was_left_behind_does_not_meddle_with_the_network_of_others() -> None:
    """A call of a network puts a task's weights into it and takes them out at its end, whoever is in it by then."""
    torch.manual_seed(0)
    network, quiet = Crossing(), Poison(raising(ValueError))
    before.update(threading.enumerate())
    quiet.load_state_dict(network.state_dict())
    tasks = toy_tasks(4, sizes=[4, 5, 6, 7])
    tasks.test.inputs[tasks.test.rows(2)] = 1e4  # while tasks are scored, each has weights of its own in the network
    for shards in (1, 4):
        go.clear()
        met.clear()
        changes: dict[str, Any] = {"shards": shards, "client": MeanRegularized(strength=1.0), "tasks": tasks}
        found = poisoned(sleep, model=network, task_seconds=0.1, **changes).run(reproduce=0)
        assert met
        equal(poisoned(sleep, **changes | {"model": quiet, "task_seconds": 60.0}).run(reproduce=0), found)


class Wandering(GlobalModel):
    """An algorithm of one's own that never ends on one task, whatever computes the tensors."""

    def train(self, learner: Any, billboard: Any, state: Any, cohort: Any, key: Any) -> Any:
        while float(cohort.part("train").inputs.max()) > 1e3:
            pass
        return super().train(learner, billboard, state, cohort, key)


class Choosy(GlobalModel):
    """An algorithm of one's own that fails on one task before it has a state."""

    def initial_state(self, billboard: Any, cohort: Any) -> Any:
        if float(cohort.part("train").inputs.max()) > 1e3:
            raise ValueError("cannot begin")
        return super().initial_state(billboard, cohort)


class Shapeless(GlobalModel):
    """An algorithm of one's own whose state has another form for one task."""

    def train(self, learner: Any, billboard: Any, state: Any, cohort: Any, key: Any) -> Any:
        strange = float(cohort.part("train").inputs.max()) > 1e3
        if strange and len(cohort) > 1:
            raise ValueError
        state, update = super().train(learner, billboard, state, cohort, key)
        return {**state, "own": torch.zeros(len(cohort), 3 if strange else 2)}, update


@pytest.mark.parametrize("client", [Wandering(), Choosy(), Shapeless()], ids=lambda one: type(one).__name__)
def test_algorithms_of_ones_own_are_guarded_with_every_engine(client: Any) -> None:
    linear = torch.nn.Linear(5, 3)
    tasks = toy_tasks(4, sizes=[4, 4, 4, 4])
    tasks.train.inputs[tasks.train.rows(1)] = 1e4
    strategy = Billboard(clipping_norm=C, rounds=1, noise_multiplier=0.0)
    settings: dict[str, Any] = {"model": linear, "strategy": strategy, "engine": "vmap", "task_seconds": 0.5}
    found = experiment(tasks, client=client, **settings).run(reproduce=0)
    assert "1 failed" in found.summary["warnings"][-1]
    problem = experiment(tasks, client=client, **settings).problem()
    cohort = Cohort(tasks, np.array([0, 2, 3]), torch.float64)
    _, update = GlobalModel().train(Learner(problem, VmapEngine()), problem.initial(), {}, cohort, Key(0, 1))
    norms = torch.sqrt(sum(v.reshape(3, -1).square().sum(1) for v in update.values()))  # type: ignore[call-overload]
    for name, value in problem.initial().items():
        expected = value + torch.einsum("c,c...->...", torch.clamp(C / norms, max=1.0), update[name]) / 4
        np.testing.assert_allclose(found.billboards[ALL][name], expected, rtol=1e-9, atol=1e-12)


class Cutting(GlobalModel):
    """An algorithm of one's own whose update has another form for some tasks."""

    def train(self, learner: Any, billboard: Any, state: Any, cohort: Any, key: Any) -> Any:
        state, update = super().train(learner, billboard, state, cohort, key)
        strange = float(cohort.part("train").inputs.max()) > 1e3
        return state, {name: value[..., :1] for name, value in update.items()} if strange else update


@pytest.mark.parametrize("engine", ["loop", "vmap"])
def test_what_most_tasks_send_does_not_decide_which_form_counts(engine: Any) -> None:
    """The form of an update is public; else a task more with another one would take everybody's update away."""
    tasks = toy_tasks(4, sizes=[4, 4, 4, 4])
    for strange in (0, 1, 3):
        tasks.train.inputs[tasks.train.rows(strange)] = 1e4
    settings: dict[str, Any] = {"strategy": Billboard(clipping_norm=C, rounds=1, noise_multiplier=0.0)}
    settings |= {"model": torch.nn.Linear(5, 3), "engine": engine}
    found = experiment(tasks, client=Cutting(), **settings).run(reproduce=0)
    assert "3 failed" in found.summary["warnings"][-1]
    alone = experiment(tasks, client=Only(task=2), **settings).run(reproduce=0)
    equal(alone, found)


class Only(GlobalModel):
    """Sends the update of one task, and zeros for all others."""

    task: int

    def train(self, learner: Any, billboard: Any, state: Any, cohort: Any, key: Any) -> Any:
        state, update = super().train(learner, billboard, state, cohort, key)
        who = torch.from_numpy(cohort.ids == self.task)
        return state, {name: value * who.view(-1, *[1] * (value.dim() - 1)) for name, value in update.items()}


def test_only_a_tasks_own_computing_counts(monkeypatch: Any) -> None:
    """A busy machine, or a thread that was left behind, must not make a task late."""
    go, asked = threading.Event(), []

    def computed(self: Any, otherwise: float) -> float:
        asked.append(otherwise)
        if len(asked) == 3:
            go.set()
        return 0.0

    monkeypatch.setattr(limit._Work, "computed", computed)
    monkeypatch.setattr(limit, "_WALL_CLOCK_FACTOR", 1e6)
    assert TimeLimit(0.001).run(lambda: go.wait(60)) is True
    monkeypatch.undo()
    with pytest.raises(TaskTimeout, match=r"more than 0\.01 s"):
        TimeLimit(0.01).run(spin)


def test_a_task_may_not_take_longer_than_its_node() -> None:
    with pytest.raises(InputError, match=r"a task may take 9 s \('task_seconds'\) .* within 5 s \('timeout'\)"):
        personal(timeout=5.0, task_seconds=9.0)
    assert personal(timeout=5.0).task_limit == 0.5
    assert personal().task_limit == 600.0


def test_a_node_that_lives_for_one_message_remembers_in_its_context(monkeypatch: Any) -> None:
    """Under Flower's own engine: the same question again gets the same answer, and changes no state."""
    set_identity()
    run = personal(shards=1)
    (spec,) = run.specs(run.problem(), 1, 7)
    monkeypatch.setattr(stock, "_specs", lambda *_: [spec])
    place: dict[str, Any] = {"partition-id": 0, "num-partitions": 1}
    context = new_context(1, **place)
    context.run_config.update({"config": "", "data-dir": "", "reproduce": 7})

    def asked(attempt: int, number: int = 1) -> dict[str, Any]:
        billboard = {name: value.numpy() for name, value in run.problem().initial().items()}
        request = Request(number, {ALL: billboard}, {ALL: np.arange(7)}, attempt=attempt)
        reply = stock.client(Message(request.to_content(), 1, "train"), context)
        return Reply.from_content(reply.content).updates[ALL]

    def state() -> bytes:
        return b"".join(value.numpy().tobytes() for value in context.state.array_records["fedpriv"].values())

    first, before = asked(1), state()
    again = asked(2)
    assert state() == before
    for name, value in first.items():
        np.testing.assert_array_equal(again[name], value)
    assert any((asked(1)[name] != value).any() for name, value in first.items()), "a new question is answered anew"
    asked(1, number=2)
    assert state() != before


@pytest.mark.parametrize("declared", ["protected", "benchmark"])
def test_what_an_error_says_stays_on_the_node_whatever_carries_messages(declared: Any, monkeypatch: Any) -> None:
    """Flower sends the text of an exception to the server, and the text may hold a value."""
    set_identity()
    run = personal(shards=1)
    (spec,) = run.specs(run.problem(), 1, 7)
    worker = Worker(replace(spec, tasks=replace(spec.tasks, declared=declared)), 1)

    def train(*_: Any) -> None:
        raise ValueError("31415")

    monkeypatch.setattr(worker.node, "train", train)
    message = Message(Request(1, {}, {}).to_content(), 1, "train")
    with pytest.raises((ComponentFailure, ValueError)) as caught:
        worker.app(message, worker.context)
    reply = worker.handle(message)
    for said in (str(caught.value), reply.error.reason):
        assert ("31415" in said) == (declared == "benchmark")
    assert "ValueError" in reply.error.reason
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ == (declared == "protected"), "a traceback would print it, too"
