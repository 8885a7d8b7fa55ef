"""Low-rank plus sparse networks: what a task fits, what it sends, and runs with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from helpers import crash_at, toy_tasks, whole
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedpriv import Experiment, InputError
from fedpriv.clients import GlobalModel, LowRankSparseNet
from fedpriv.cohort import Cohort, Key, Learner, Params, Problem, Purpose, Ragged, Tasks, engine_named, split_examples
from fedpriv.evidence import Evidence, read_protocol
from fedpriv.experiment import ModelSettings
from fedpriv.lrs.network import Directions, Layout, fit, orthonormal_columns
from fedpriv.lrs.sparse import PersonalPart
from fedpriv.models import build_model
from fedpriv.models.factored import Factored
from fedpriv.privacy.accounting import epsilon
from fedpriv.privacy.bounds import WHOLE, Bounds
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.terms import Relation
from fedpriv.runs.checkpoint import CheckpointStore
from fedpriv.runtime.node import Node
from fedpriv.scenarios.lrs_net import evidence
from fedpriv.strategies import Billboard

RANK, HIDDEN = 2, 7
TASKS = toy_tasks(6, sizes=[2, 5, 9, 4, 12, 7])


def problem(rank: int = RANK, dtype: torch.dtype = torch.float64) -> Problem:
    wanted = {"network": "mlp", "hidden": HIDDEN, "rank": rank}
    return Problem(build_model("low-rank-net", TASKS.input_shape, 3, wanted, seed=3, dtype=dtype))


def client(**changes: Any) -> LowRankSparseNet:
    return LowRankSparseNet(**{"sparsity": 5, "personal_steps": 3, "final_steps": 4, "epochs": 1, **changes})


def billboard_of(one: Problem, seed: int = 5) -> Params:
    """A billboard whose bank is not small."""
    drawn = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=drawn, dtype=value.dtype) * 0.3
        for name, value in one.initial().items()
    }


def round_of(one: LowRankSparseNet, board: Params, engine: str = "auto", rank: int = RANK) -> Any:
    learner, cohort = Learner(problem(rank), engine_named(engine)), whole(TASKS)
    state = one.initial_state(board, cohort)
    state, update = one.train(learner, board, state, cohort, Key(0, 1))
    return learner, cohort, state, update


def experiment(one: LowRankSparseNet | None = None, rank: int = RANK, **strategy: Any) -> Experiment:
    wanted = {"clipping_norm": 1e9, "noise_multiplier": 0.0, "rounds": 4, "delta": 1e-3, "sampling_rate": 0.6}
    return Experiment(
        tasks=TASKS,
        model=ModelSettings(name="low-rank-net", settings={"hidden": HIDDEN, "rank": rank}),
        client=one or client(),
        strategy=Billboard(**{**wanted, **strategy}),
        grid="in-process",
        dtype="float64",
        checkpoint_every=2,
        baseline=False,
    )


# --- the numbers of a task -------------------------------------------------------------------------------------------


def test_a_task_differs_from_the_billboard_by_its_coefficients_and_exactly_k_places() -> None:
    board = billboard_of(problem())
    one = client()
    learner, cohort, state, _ = round_of(one, board)
    network = one.personal(board, state, cohort)
    assert not any(value.any() for name, value in network.items() if name.startswith("bank."))
    assert state["coefficients"].shape == (6, 2 * RANK)
    assert state["coefficients"].abs().min() > 0
    spread = 0
    for layer, columns in (("0" if "net.0.weight" in board else "1", 0), ("3", RANK)):
        names = [f"{layer}.weight", f"{layer}.bias"]
        moved = torch.cat([(network[f"net.{n}"] - board[f"net.{n}"]).flatten(1) for n in names], dim=1)
        bank = torch.cat([board[f"bank.{n}"].flatten(1) for n in names], dim=1).T
        left, _, right = torch.linalg.svd(bank, full_matrices=False)  # an independent polar factor
        rest = moved - state["coefficients"][:, columns : columns + RANK] @ (left @ right).T
        spread = spread + (rest.abs() > 1e-12).sum(dim=1)
    assert spread.tolist() == [5] * 6
    assert all(len(set(row)) == 5 for row in state["index"].tolist())
    state = one.finish(learner, board, state, cohort, Key(0, 0))
    assert (state["values"] != 0).sum(dim=1).tolist() == [5] * 6


def test_first_time_tasks_start_from_the_billboard_and_nothing_else() -> None:
    board = billboard_of(problem())
    one, cohort = client(), whole(TASKS)
    network = one.personal(board, one.initial_state(board, cohort), cohort)
    for name, value in network.items():
        wanted = board[name] if name.startswith("net.") else torch.zeros_like(board[name])
        assert torch.equal(value, wanted.expand_as(value))


def test_one_step_is_the_gradient_of_the_mean_loss_and_the_pull() -> None:
    """By autograd through U w + b, written out here."""
    board = billboard_of(problem())
    one = client(personal_steps=1, sparsity=4, pull=0.2, sparse_pull=0.4, personal_rate=0.3)
    rng = torch.Generator().manual_seed(1)
    cohort = whole(TASKS)
    state = one.initial_state(board, cohort)
    state["coefficients"] = torch.randn(state["coefficients"].shape, generator=rng, dtype=torch.float64)
    state["values"] = torch.randn(state["values"].shape, generator=rng, dtype=torch.float64)
    learner = Learner(problem())
    new, _ = one.train(learner, board, state, cohort, Key(0, 1))
    net = {name[4:]: value for name, value in board.items() if name.startswith("net.")}
    layout, task = Layout.of(net), 4
    base = torch.cat([value.flatten() for value in net.values()])
    columns = []
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in net):
        block = torch.zeros(layout.size, RANK, dtype=torch.float64)
        names = [name for name in net if name.rpartition(".")[0] == layer]
        left, _, right = torch.linalg.svd(
            torch.cat([board[f"bank.{name}"].flatten(1) for name in names], dim=1).T, full_matrices=False
        )
        block[layout.place(names[0]).start : layout.place(names[-1]).stop] = left @ right
        columns.append(block)
    matrix = torch.cat(columns, dim=1)
    w = state["coefficients"][task].clone().requires_grad_()
    b = torch.zeros(layout.size, dtype=torch.float64).index_copy(0, state["index"][task], state["values"][task])
    b.requires_grad_()
    arrays = {name: value[0] for name, value in layout.cut((base + matrix @ w + b)[None]).items()}
    batch = cohort.one(task).part("train")
    inner = learner.problem.model.net  # type: ignore[union-attr]
    outputs = torch.func.functional_call(inner, arrays, (batch.inputs[0][: TASKS.train.sizes[task]],))
    loss = nn.functional.cross_entropy(outputs, batch.targets[0][: TASKS.train.sizes[task]])
    (loss + 0.1 * w.square().sum() + 0.2 * b.square().sum()).backward()
    torch.testing.assert_close(new["coefficients"][task], (w - 0.3 * w.grad).detach(), rtol=1e-10, atol=1e-12)
    moved = (b - 0.3 * b.grad).detach()
    largest = moved.abs().topk(4).indices
    assert set(new["index"][task].tolist()) == set(largest.tolist())
    torch.testing.assert_close(new["values"][task], moved[new["index"][task]], rtol=1e-10, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(0, 5), st.integers(0, 1000))
def test_columns_become_orthonormal_and_never_nan(rows: int, columns: int, seed: int) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if columns > 1 and seed % 3 == 0:
        matrix[:, 1] = 2 * matrix[:, 0]
    if seed % 5 == 0:
        matrix = matrix * 1e-30
    found = orthonormal_columns(matrix)
    assert found.isfinite().all()
    kept = torch.linalg.matrix_rank(found)
    singular = torch.linalg.svdvals(found)[: int(kept)]
    torch.testing.assert_close(singular, torch.ones_like(singular), rtol=1e-5, atol=1e-5)


def test_no_direction_at_all_is_not_a_number_either() -> None:
    assert not orthonormal_columns(torch.zeros(4, 2)).any()


def test_a_sparse_truth_is_found_by_thresholding_and_refit() -> None:
    """A quadratic loss with a known minimum: every coordinate of the support, and its value."""
    truth = torch.zeros(2, 40, dtype=torch.float64)
    truth[0, [3, 17, 30]] = torch.tensor([1.0, -2.0, 0.7], dtype=torch.float64)
    truth[1, [0, 5, 39]] = torch.tensor([0.5, 0.6, -0.4], dtype=torch.float64)
    own = fit(
        PersonalPart.zeros(2, 0, 3),
        lambda moved: moved - truth,
        Directions(()),
        dimension=40,
        steps=60,
        rate=0.5,
        pull=0.0,
        sparse_pull=0.0,
    )
    torch.testing.assert_close(own.sparse(40), truth, rtol=1e-9, atol=1e-9)
    limited = torch.zeros(40, dtype=torch.bool)
    limited[:10] = True
    kept = fit(
        own,
        lambda moved: moved - truth,
        Directions(()),
        dimension=40,
        steps=4,
        rate=0.5,
        pull=0.0,
        sparse_pull=0.0,
        allowed=limited,
    )
    assert kept.index.max() < 10


# --- what is sent ----------------------------------------------------------------------------------------------------


def test_what_is_sent_is_the_drift_and_its_product_with_coefficients() -> None:
    board = billboard_of(problem())
    one = client(bank_rate=0.5)
    _, _, state, update = round_of(one, board)
    assert {name: value.shape[1:] for name, value in update.items()} == {n: v.shape for n, v in board.items()}
    drift, bank = update["net.3.weight"], update["bank.3.weight"]
    weights = state["coefficients"][:, RANK:]
    unit = 0.5 * weights / weights.norm(dim=1, keepdim=True)
    for task in range(6):
        for factor in range(RANK):
            torch.testing.assert_close(bank[task, factor], unit[task, factor] * drift[task])
    # Both kinds of news are in proportion, so the clipping norm of one tells that of the other.
    together = sum(value.square().sum(dim=tuple(range(1, value.dim()))) for value in update.values())
    alone = sum(v.square().sum(dim=tuple(range(1, v.dim()))) for n, v in update.items() if n.startswith("net."))
    torch.testing.assert_close(together, 1.25 * alone)


def test_without_anything_of_its_own_a_task_sends_what_fedavg_sends() -> None:
    board = billboard_of(problem(0))
    one = client(personal_steps=0)
    learner, cohort, _, update = round_of(one, board, rank=0)
    plain = GlobalModel(epochs=1)
    inner = Learner(Problem(learner.problem.model.net))  # type: ignore[union-attr]
    net = {name[4:]: value for name, value in board.items()}
    _, wanted = plain.train(inner, net, {}, cohort, Key(0, 1))
    for name, value in wanted.items():
        torch.testing.assert_close(update[f"net.{name}"], value, rtol=0, atol=0)
    assert inner.work == learner.work


def test_during_the_warm_up_there_is_the_shared_network_only() -> None:
    board = billboard_of(problem())
    one, cohort, learner = client(warm_up=2), whole(TASKS), Learner(problem())
    start = one.initial_state(board, cohort)
    state, update = one.train(learner, board, start, cohort, Key(0, 2))
    assert not any(value.any() for name, value in update.items() if name.startswith("bank."))
    assert all(torch.equal(state[name], value) for name, value in start.items())
    _, update = one.train(learner, board, start, cohort, Key(0, 3))
    assert all(value.any() for name, value in update.items() if name.startswith("bank."))


def test_after_the_warm_up_the_network_may_be_left_as_it_is(tmp_path: Path) -> None:
    board = billboard_of(problem())
    _, _, _, update = round_of(client(), board)
    _, _, _, frozen = round_of(client(network_rate=0.0), board)
    _, _, _, warm = round_of(client(network_rate=0.0, warm_up=2), board)
    assert not any(value.any() for name, value in frozen.items() if name.startswith("net."))
    assert all(value.any() for name, value in warm.items() if name.startswith("net."))
    for name in (name for name in board if name.startswith("bank.")):
        torch.testing.assert_close(frozen[name], update[name], rtol=0, atol=0)
    experiment(client(network_rate=0.0, warm_up=2)).run(tmp_path / "run", reproduce=1)
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    (before,), (after,) = (store.load(number).billboards.values() for number in (2, 4))
    assert all(np.array_equal(before[name], after[name]) == name.startswith("net.") for name in before)


@pytest.mark.parametrize("share", [0.35, 0.5])
def test_own_numbers_and_directions_may_be_learned_from_different_examples(share: float) -> None:
    """The other examples of a task cannot move its numbers, nor those that its numbers know the news it sends."""
    board, cohort = billboard_of(problem()), whole(TASKS)
    one, learner = client(fit_share=share), Learner(problem())
    key = Key(0, 3)
    fitted, rest = split_examples(cohort, Key(0, 3, Purpose.EPISODE), share)
    for row, size in enumerate(cohort.sizes("train").tolist()):
        parts = [set(numbers[row][numbers[row] >= 0].tolist()) for numbers in (fitted, rest)]
        assert parts[0] | parts[1] == set(range(size))
        assert parts[0].isdisjoint(parts[1])
        assert len(parts[0]) == max(round(share * size), 1)
    state, update = one.train(learner, board, one.initial_state(board, cohort), cohort, key)

    def with_other(numbers: Any) -> tuple[Any, Any]:
        inputs = TASKS.train.inputs.copy()
        for row in range(len(TASKS)):
            rows = TASKS.train.rows(row)
            inputs[rows.start + numbers[row][numbers[row] >= 0]] *= -3.0
        changed = replace(TASKS, train=replace(TASKS.train, inputs=inputs))
        return one.train(Learner(problem()), board, one.initial_state(board, cohort), whole(changed), key)

    mine, news = with_other(rest)
    assert all(torch.equal(mine[name], state[name]) for name in state)
    assert not torch.equal(news["net.3.weight"], update["net.3.weight"])
    mine, news = with_other(fitted)
    assert not torch.equal(mine["coefficients"], state["coefficients"])
    assert not state["values"].any()
    # What was kept from earlier rounds has seen all examples, so it plays no part.
    again, _ = one.train(Learner(problem()), board, state, cohort, key)
    assert all(torch.equal(again[name], state[name]) for name in state)
    assert learner.work == dict(enumerate(3 * (fitted >= 0).sum(1) + (rest >= 0).sum(1)))


def test_a_single_example_is_in_both_parts() -> None:
    lone = Tasks("lone", ("a", "b"), *(Ragged.from_lists([np.ones((n, 5), "float32") for n in (1, 3)],
                 [np.zeros(n, np.int64) for n in (1, 3)]) for _ in range(3)), 3, "benchmark")  # fmt: skip
    first, second = split_examples(whole(lone), Key(0, 1), 0.01)
    assert first.tolist()[0] == second.tolist()[0] == [0, -1, -1, -1]
    assert ((first[1] >= 0).sum(), (second[1] >= 0).sum()) == (1, 2)


def test_places_and_values_of_a_task_are_not_in_any_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node's reply to a request to train has the billboard's arrays, and no state."""
    seen: list[Any] = []
    original = Node.train

    def train(self: Node, content: RecordDict) -> RecordDict:
        seen.append(original(self, content))
        return seen[-1]

    monkeypatch.setattr(Node, "train", train)
    result = experiment(rounds=2, reply="rows").run()
    (board,) = result.billboards.values()
    sent = {name.rpartition("/")[2] for reply in seen for record in reply.array_records.values() for name in record}
    assert {name for name in sent if name.startswith(("net.", "bank."))} == set(board)
    assert not {"coefficients", "index", "values"} & sent


@pytest.mark.parametrize("changes", [{}, {"where": ("3.bias",), "sparsity": 3}, {"sparsity": 0}])
def test_engines_agree(changes: dict[str, Any]) -> None:
    board = billboard_of(problem())
    one = client(**changes)
    found = {}
    for engine in ("auto", "vmap", "loop"):
        learner, cohort, state, update = round_of(one, board, engine)
        state = one.finish(learner, board, state, cohort, Key(0, 0))
        scores = one.evaluate(learner, board, state, cohort)
        found[engine] = {**state, **update, "loss": scores.loss}
        assert learner.work == {task: (3 + 1 + 4) * size for task, size in enumerate([2, 5, 9, 4, 12, 7])}
    for engine in ("vmap", "loop"):
        for name, value in found["auto"].items():
            torch.testing.assert_close(found[engine][name], value, rtol=1e-10, atol=1e-12)


def test_a_task_does_not_depend_on_those_beside_it() -> None:
    board = billboard_of(problem())
    one = client()
    _, _, state, update = round_of(one, board)
    learner = Learner(problem())
    for position in (1, 4):
        mine = whole(TASKS).one(position)
        own, sent = one.train(learner, board, one.initial_state(board, mine), mine, Key(0, 1))
        for name, value in {**own, **sent}.items():
            wanted = {**state, **update}[name][position : position + 1]
            torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [1, 5])
def test_not_even_its_rounding_does(rank: int, dtype: torch.dtype) -> None:
    """Rounding decides between places that are equally good, so one task could move the updates of others by it."""
    tasks, here, one = toy_tasks(24, sizes=[9] * 24), problem(rank, dtype), client()
    board = {name: value.to(dtype) for name, value in billboard_of(here).items()}

    def sent(members: range) -> torch.Tensor:
        cohort = Cohort(tasks, np.array(members), dtype)
        state, _ = one.train(Learner(here), board, one.initial_state(board, cohort), cohort, Key(0, 1))
        _, update = one.train(Learner(here), board, state, cohort, Key(0, 2))
        return torch.cat([value.flatten(1) for value in update.values()], dim=1)

    everybody = sent(range(24))
    assert torch.equal(sent(range(23)), everybody[:23])
    assert torch.equal(torch.cat([sent(range(task, task + 1)) for task in range(24)]), everybody)


# --- special cases and refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rank", "sparsity"), [(0, 5), (2, 0)])
def test_sparse_alone_and_low_rank_alone(rank: int, sparsity: int) -> None:
    result = experiment(client(sparsity=sparsity), rank, rounds=3).run()
    assert np.isfinite(result.scores["personal.loss"]).all()
    assert result.diagnostics.loss.personal != result.diagnostics.loss.billboard
    names = set(next(iter(result.billboards.values())))
    assert any(name.startswith("bank.") for name in names) == bool(rank)


@pytest.mark.parametrize(
    ("model", "changes", "words"),
    [
        ({"rank": 25}, {}, "'rank' must be at most 24, the numbers of layer '3', got 25"),
        ({"rank": -1}, {}, "rank"),
        ({}, {"sparsity": 67}, "'sparsity' must be at most the 66 numbers"),
        ({}, {"sparsity": -1}, "sparsity"),
        ({"rank": 0}, {"sparsity": 0}, "'rank' and 'sparsity' are both 0"),
        ({}, {"personal_steps": 0, "final_steps": 0}, "both 0"),
        ({}, {"where": ("3.bais",)}, "did you mean '3.bias'"),
        ({}, {"where": ("3.bias",)}, "at most the 3 numbers that may be changed, got 5; use fewer, or more arrays"),
        ({"rank": 0}, {"network_rate": 0.0}, "'network_rate' and 'rank' are both 0"),
        ({}, {"fit_share": 0.5, "personal_steps": 0}, "set 'personal_steps' to at least 1"),
        ({}, {"fit_share": 0.5, "final_steps": 0}, "fitted after the last round only"),
        ({}, {"pull": -0.1}, "pull"),
        ({}, {"personal_rate": 0.0}, "personal_rate"),
    ],
)
def test_what_does_not_fit_is_refused_before_work_starts(
    model: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        Experiment(
            tasks=TASKS,
            model=ModelSettings(name="low-rank-net", settings={"hidden": HIDDEN, **model}),
            client=client(**changes),
            strategy=Billboard(clipping_norm=1.0, noise_multiplier=0.0, rounds=1, delta=1e-3),
            grid="in-process",
        ).check()


def test_noise_would_move_a_network_that_is_to_stay() -> None:
    with pytest.raises(InputError, match=r"client\.network_rate = 0 leaves part of the billboard as it is, and noise"):
        experiment(client(network_rate=0.0), noise_multiplier=1.0)


def test_a_network_without_a_bank_is_refused_and_one_of_your_own_can_have_one() -> None:
    strategy = Billboard(clipping_norm=1.0, noise_multiplier=0.0, rounds=1, delta=1e-3)
    own = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3, bias=False))
    run = Experiment(tasks=TASKS, model=own, client=client(), strategy=strategy, grid="in-process", baseline=False)
    with pytest.raises(InputError, match="needs a network with a bank of directions, got Sequential"):
        run.check()
    result = run.model_copy(update={"model": Factored(own, 2)}).run()
    assert np.isfinite(result.scores["personal.loss"]).all()
    with pytest.raises(InputError, match="'rank' must be at least 0"):
        Factored(own, -1)


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_private_run_is_charged_like_any_billboard_and_one_task_moves_it_by_the_clipping_norm() -> None:
    result = experiment(noise_multiplier=1.0, clipping_norm=0.5, rounds=3).run()
    release = Release(noise_multiplier=1.0, sampling_name="poisson", rate=0.6, clipping_norm=0.5)
    assert result.guarantee.epsilon == epsilon({release: 3}, 1e-3, Relation.ADD_REMOVE).value
    assert "joint" in str(result.guarantee).lower()
    assert LowRankSparseNet.updates_use_state  # so cohorts of fixed size are counted in full, as with PMTL
    board = billboard_of(problem())
    _, _, _, update = round_of(client(learning_rate=5.0), board)
    rows = {name: value.numpy() for name, value in update.items()}
    everybody = Bounds({WHOLE: 0.5}).sum(rows, 1.0)
    others = Bounds({WHOLE: 0.5}).sum({name: value[1:] for name, value in rows.items()}, 1.0)
    moved = sum(float(np.square(everybody[name] - others[name]).sum()) for name in rows) ** 0.5
    assert moved == pytest.approx(0.5, rel=1e-9)  # far beyond the norm, so exactly at it


def test_a_killed_run_goes_on_with_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between two snapshots, so the states of a round are trained again from the snapshot before."""
    whole_run = experiment(rounds=4).run(reproduce=7)
    with crash_at(monkeypatch, "after charge", 4):
        experiment(rounds=4).run(tmp_path / "cut", reproduce=7)
    again = experiment(rounds=4).run(tmp_path / "cut", reproduce=7, resume=True)
    assert CheckpointStore(tmp_path / "cut/checkpoints").rounds()
    for name, value in whole_run.scores.items():
        np.testing.assert_array_equal(again.scores[name], value)
    (one,), (two,) = whole_run.billboards.values(), again.billboards.values()
    for name, value in one.items():
        np.testing.assert_array_equal(two[name], value)


def test_a_new_task_adapts_to_the_billboard_without_changing_it() -> None:
    board = billboard_of(problem())
    before = {name: value.clone() for name, value in board.items()}
    one = client(final_steps=25, pull=0.0, sparse_pull=0.0, personal_rate=0.2)
    learner, cohort = Learner(problem()), whole(TASKS)
    state = one.initial_state(board, cohort)
    start = learner.evaluate(one.personal(board, state, cohort), cohort, "train").loss
    adapted = one.finish(learner, board, state, cohort, Key(0, 0))
    end = learner.evaluate(one.personal(board, adapted, cohort), cohort, "train").loss
    assert (end < start).all()
    trained, _ = one.train(learner, board, state, cohort, Key(0, 1))
    again = one.finish(learner, board, trained, cohort, Key(0, 0))
    assert all(torch.equal(adapted[name], value) for name, value in again.items())  # as one that took part
    assert all(torch.equal(board[name], value) for name, value in before.items())


def test_the_scenario_by_the_command_line(fedpriv: Any) -> None:
    words = ["run", "lrs-net", "--preset", "digits", "--set=data.tasks=15", "--set=strategy.rounds=2"]
    words += ["--set=strategy.delta=1e-3", "--set=run.grid=in-process", "--set=run.baseline=false"]
    code, out, _ = fedpriv(*words, "--set=strategy.evaluate_every=0", "--out=run", "--json")
    assert code == 0
    assert json.loads(out)["diagnostics"]["accuracy"]["personal"] is not None
    assert json.loads(Path("run/summary.json").read_text())["client"] == "low-rank-sparse-net"
    code, _, err = fedpriv(*words, "--set=client.sparsity=999999")
    assert code == 2
    assert "'sparsity' must be at most" in err


def test_shared_and_own_directions_help_where_tasks_differ_in_one_direction() -> None:
    """Tasks whose labels follow one of two shared rules: coefficients tell which, and one network cannot."""
    rng = np.random.default_rng(0)
    axis = rng.normal(size=(5,))

    def part(examples: int) -> Any:
        inputs = [rng.normal(size=(examples, 5)).astype("float32") for _ in range(40)]
        labels = [((x @ axis) * (1 if number % 2 else -1) > 0).astype(np.int64) for number, x in enumerate(inputs)]
        return Ragged.from_lists(inputs, labels)

    tasks = Tasks("signs", tuple(map(str, range(40))), part(12), part(2), part(40), 2, "benchmark")
    run = Experiment(
        tasks=tasks,
        model=ModelSettings(name="low-rank-net", settings={"network": "linear", "rank": 1}),
        client=LowRankSparseNet(sparsity=0, learning_rate=0.5, personal_rate=1.0, pull=0.05, final_steps=20),
        strategy=Billboard(clipping_norm=1e9, noise_multiplier=0.0, rounds=15, delta=1e-3, sampling_rate=1.0),
        grid="in-process",
        baseline=False,
    )
    accuracy = run.run().diagnostics.accuracy
    assert accuracy.personal is not None
    assert accuracy.billboard is not None
    assert accuracy.personal > 0.9  # 12 examples alone in 5 dimensions: about 0.85
    assert accuracy.billboard < 0.6


def test_the_page_of_the_evidence_says_what_failed(tmp_path: Path) -> None:
    protocol = read_protocol(Path(evidence.__file__).parent / "protocol.toml", own=("fine_tuned", "numbers"))
    rng = np.random.default_rng(0)
    means = {"lrs": 0.62, "biases": 0.65}
    columns = {
        (arm, "plain", model): (means.get(arm, 0.58) + 0.002 * rng.normal(size=6)).tolist()
        for arm in protocol.arms
        for model in ("personal", "billboard")
    }
    found = Evidence(columns, {}, 60.0, {"fedpriv": "0"})
    page = evidence._page("lrs-net", protocol, found)
    label = protocol.arms["lrs"].label
    assert f"It was refuted: {label} minus fine-tuned: 62 of all 110 biases (plain)." in page
    assert f"| {label} | 62 | 0.6" in page
    evidence._figure(protocol, found, tmp_path / "one.svg")
    assert (tmp_path / "one.svg").stat().st_size > 1000
