"""Personal states of a node: in memory, in a file, and through snapshots to other nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedpriv import ComponentFailure
from fedpriv.cohort import State
from fedpriv.runs import read_states, write_states
from fedpriv.runtime import store as module
from fedpriv.runtime.store import StateStore

FRESH = {"w": torch.full((3, 2), 5.0), "count": torch.zeros(3, dtype=torch.int64)}


def filled(memory_bytes: float) -> StateStore:
    store = StateStore(10, memory_bytes)
    store.write(np.array([7, 2]), {"w": torch.tensor([[7.0, 7.5], [2.0, 2.5]]), "count": torch.tensor([70, 20])})
    store.write(np.array([2]), {"extra": torch.tensor([[1.0]])})
    store.participations[[2, 7]] = [3, 1]
    store.work[7] = 40
    store.grants("kind")[2] = 9
    return store


def check(store: StateStore, positions: np.ndarray, expected: State) -> None:
    found = store.read(positions, {name: value.clone() for name, value in FRESH.items()})
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, equal_nan=True)


@pytest.mark.parametrize("memory_bytes", [1e9, 0], ids=["memory", "file"])
def test_a_task_gets_back_what_it_kept_and_nothing_of_others(memory_bytes: float) -> None:
    store = filled(memory_bytes)
    assert store.spilled == ([] if memory_bytes else ["w", "count", "extra"])
    nan = torch.nan
    expected = {
        "w": torch.tensor([[2.0, 2.5], [5.0, 5.0], [7.0, 7.5]]),
        "count": torch.tensor([20, 0, 70]),
        "extra": torch.tensor([[1.0], [nan], [nan]]),
    }
    check(store, np.array([2, 4, 7]), expected)
    assert store.present.tolist() == [k in (2, 7) for k in range(10)]


@pytest.mark.parametrize("memory_bytes", [1e9, 0], ids=["memory", "file"])
@pytest.mark.parametrize("block_bytes", [1, 10**6])
def test_a_snapshot_restores_to_any_sharding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_bytes: float, block_bytes: int
) -> None:
    monkeypatch.setattr(module, "_BLOCK_BYTES", block_bytes)
    write_states(tmp_path, 4, 0, filled(memory_bytes).blocks())
    write_states(tmp_path, 4, 10, filled(memory_bytes).blocks())  # tasks 10 to 19 of the population
    other = StateStore(8, memory_bytes)  # tasks 5 to 12
    other.restore(read_states(tmp_path, 4, 5))
    assert np.flatnonzero(other.present).tolist() == [2, 7]  # tasks 7 and 12
    assert other.participations[[2, 7]].tolist() == [1, 3]
    assert other.work[2] == 40
    assert other.grants("kind")[7] == 9
    found = other.read(np.array([2, 7, 0]), dict(FRESH))
    assert found["w"].tolist() == [[7.0, 7.5], [2.0, 2.5], [5.0, 5.0]]
    assert found["count"].tolist() == [70, 20, 0]


def test_memory_follows_the_tasks_that_took_part() -> None:
    """A million tasks with 40 kB each are registered; ten of them take part."""
    store = StateStore(1_000_000)
    positions = np.arange(10) * 99_999
    for _ in range(2):
        store.write(positions, {"w": torch.ones(10, 10_000)})
    assert store.spilled == ["w"]
    assert float(store.read(positions, {})["w"].sum()) == 100_000
    assert sum(rows.nbytes for name, _, rows in store.blocks() if name == "state/w") == 400_000


def test_a_damaged_snapshot_is_a_sentence(tmp_path: Path) -> None:
    write_states(tmp_path, 4, 0, filled(1e9).blocks())
    (path,) = tmp_path.glob("states-*.npz")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ComponentFailure, match=r"states-000004-000000000\.npz cannot be read"):
        list(read_states(tmp_path, 4))
