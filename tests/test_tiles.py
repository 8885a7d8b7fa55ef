"""The size of tiles: found by trying, without any influence on results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedpriv.cohort import Cohort, KernelEngine, Key, Learner, LoopEngine, Params, Problem, Ragged, Tasks
from fedpriv.cohort.fast import tiles
from fedpriv.privacy import clipping

FEATURES = 5


def ragged(sizes: list[int]) -> Tasks:
    generator = np.random.default_rng(0)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    inputs = generator.standard_normal((offsets[-1], FEATURES)).astype(np.float32)
    targets = np.arange(offsets[-1], dtype=np.int64) % 3
    none = Ragged(inputs[:0], targets[:0], np.zeros(len(sizes) + 1, dtype=np.int64))
    names = tuple(f"task-{number}" for number in range(len(sizes)))
    return Tasks("made up", names, Ragged(inputs, targets, offsets), none, none, num_classes=3, declared="benchmark")


def trained(engine: Any, cohort: Cohort, problem: Problem, **how: Any) -> Params:
    start = {name: value.expand(len(cohort), *value.shape) for name, value in problem.initial().items()}
    learner = Learner(problem, engine)
    return learner.sgd(start, cohort, Key(0, 1), learning_rate=0.1, batch_size=4, **how)


def problem(hidden: int, dtype: torch.dtype) -> Problem:
    torch.manual_seed(0)
    return Problem(nn.Sequential(nn.Linear(FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, 3)).to(dtype))


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=9),
    hidden=st.integers(1, 6),
    double=st.booleans(),
    length=st.sampled_from([{"epochs": 2}, {"steps": 1}, {"steps": 7}]),
    momentum=st.sampled_from([0.0, 0.9]),
    strength=st.sampled_from([0.0, 0.3, "per task"]),
    seed=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_ragged_tasks_descend_as_the_loop_does_in_any_order_and_tile(
    sizes: list[int], hidden: int, double: bool, length: dict[str, int], momentum: float, strength: Any, seed: int
) -> None:
    dtype = torch.float64 if double else torch.float32
    tasks, model = ragged(sizes), problem(hidden, dtype)
    order = np.random.default_rng(seed).permutation(len(tasks))
    pulls = torch.linspace(0, 0.5, len(tasks), dtype=dtype)
    how: dict[str, Any] = {**length, "momentum": momentum}
    if strength:
        how["anchor"] = {name: value + 0.1 for name, value in model.initial().items()}

    def with_pull(which: Any) -> dict[str, Any]:
        return how if not strength else {**how, "strength": pulls[which] if strength == "per task" else strength}

    wanted = trained(LoopEngine(), Cohort(tasks, np.arange(len(tasks)), dtype), model, **with_pull(slice(None)))
    engine = KernelEngine()
    engine.tiles = _Fixed(seed + 1)
    # Tasks of one padded width share a cohort, as on a node; each cohort in any order, cut anywhere.
    widths = np.array([1 << (size - 1).bit_length() for size in sizes])
    for width in np.unique(widths):
        mine = order[widths[order] == width]
        found = trained(engine, Cohort(tasks, mine, dtype), model, **with_pull(torch.from_numpy(mine)))
        again = trained(KernelEngine(), Cohort(tasks, np.sort(mine), dtype), model, **with_pull(np.sort(mine)))
        for name, value in found.items():
            tolerance = 1e-10 if double else 1e-5
            torch.testing.assert_close(value, wanted[name][torch.from_numpy(mine)], rtol=tolerance, atol=tolerance)
            assert torch.equal(value, again[name][torch.from_numpy(np.argsort(np.argsort(mine)))])


class _Fixed(tiles.Tiles):
    """Tiles of so many tasks."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def cut(self, count: int, bytes_per_task: int, work: int) -> Any:
        for first in range(0, count, self.size):
            yield slice(first, min(first + self.size, count))


@pytest.mark.parametrize("count", [1, 7, 5000])
def test_tiles_cover_all_tasks_once_while_sizes_are_tried_and_afterwards(count: int) -> None:
    cutter = tiles.Tiles()
    for _ in range(30):
        seen = [number for here in cutter.cut(count, 2**17, 1) for number in range(count)[here]]
        assert seen == list(range(count))
    if count == 5000:
        assert list(cutter.megabytes) == [2**17]


def test_the_fastest_size_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(tiles.time, "perf_counter", lambda: clock[0])
    cutter, each = tiles.Tiles(), 2**18
    for here in cutter.cut(1000, each, 10):
        size = here.stop - here.start
        clock[0] += size * (1.0 if size * each == 2**21 else 2.0)  # 2 MB is fastest
    assert cutter.megabytes == {each: 2.0}


@pytest.mark.parametrize("width", [3, 700, 70_000])
def test_a_clipped_sum_has_the_same_bits_whatever_its_blocks(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(1).standard_normal((40, width)).astype(np.float32)
    sums = []
    for high in (1, 3, 7, 40):
        monkeypatch.setattr(clipping, "_BLOCK_ENTRIES", high * width)
        sums += clipping.clipped_sum([rows], 2.0)
    for other in sums[1:]:
        assert np.array_equal(sums[0], other)
