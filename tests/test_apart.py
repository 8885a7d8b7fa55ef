"""What a task sends is its own: the dry run refuses algorithms that mix tasks, draw in secret or hide a state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from helpers import experiment, toy_problem, toy_tasks

from fedpriv import InputError
from fedpriv.clients import GlobalModel, MeanRegularized
from fedpriv.cohort import Cohort, Key, Learner, LocalSGD, Params, State, broadcast, engine_named, nest, probe

Change = Callable[[torch.Tensor], torch.Tensor]


def over(axes: Callable[[torch.Tensor], tuple[int, ...]]) -> Change:
    return lambda value: value / torch.linalg.vector_norm(value, dim=axes(value), keepdim=True).clamp(min=1e-12)


def of_each(value: torch.Tensor) -> tuple[int, ...]:
    return tuple(range(1, value.dim()))


MIXING: dict[str, Change] = {
    "normalised over all tasks": over(lambda value: tuple(range(value.dim()))),
    "centred over the tasks": lambda value: value - value.mean(dim=0, keepdim=True),
    "averaged over the tasks": lambda value: value / len(value),
    "one after the other": lambda value: value.cumsum(dim=0),
    "from the last to the first": lambda value: value.flip(0).cumsum(dim=0).flip(0),
    "a little": lambda value: value + 0.01 * value.roll(1, 0),
}


class Changed(GlobalModel):
    """Changes what a stage gives, [C, ...]."""

    how: str = ""
    where: str = "train"
    changes: ClassVar[dict[str, Change]] = {**MIXING, "": lambda value: value, "normalised": over(of_each)}

    def _of(self, where: str, tree: Params) -> Params:
        return {name: self.changes[self.how](value) for name, value in tree.items()} if where == self.where else tree

    def initial_state(self, billboard: Params, cohort: Cohort) -> State:
        labels = cohort.part("train").targets.float().mean(dim=1)
        return self._of("initial_state", {"mean": labels.unsqueeze(1) + 1})

    def train(
        self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key
    ) -> tuple[State, Params]:
        _, update = super().train(learner, billboard, {}, cohort, key)
        return state, self._of("train", update)

    def finish(self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key) -> State:
        return state | self._of("finish", self.fit(learner, broadcast(billboard, len(cohort)), cohort, key))


def tried(client: LocalSGD, engine: str = "auto", dtype: torch.dtype = torch.float32) -> None:
    tasks = toy_tasks(5)
    probe(client, toy_problem(tasks, dtype=dtype), engine_named(engine), tasks)


@pytest.mark.parametrize(
    ("how", "engine"), [*((how, "auto") for how in MIXING), ("averaged over the tasks", "vmap"), ("a little", "loop")]
)
def test_an_update_that_mixes_tasks_is_refused(how: str, engine: str) -> None:
    with pytest.raises(InputError, match=r"Changed\.train gives a task something else .* axes after the first only"):
        tried(Changed(how=how, learning_rate=0.01), engine)
    tried(Changed(how="normalised", learning_rate=0.01), engine)  # what the message advises


@pytest.mark.parametrize("where", ["initial_state", "finish"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_state_that_mixes_tasks_is_refused(where: str, dtype: torch.dtype) -> None:
    """A personal model that holds news of other tasks has no joint differential privacy."""
    with pytest.raises(InputError, match=rf"Changed\.{where} gives a task something else"):
        tried(Changed(how="averaged over the tasks", where=where), dtype=dtype)
    tried(Changed(where=where), dtype=dtype)


def test_mixing_tasks_is_refused_before_a_run_begins(tmp_path: Any) -> None:
    with pytest.raises(InputError, match=r"Changed\.train gives a task something else"):
        experiment(toy_tasks(5), client=Changed(how="normalised over all tasks")).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("engine", ["auto", "loop"])
@pytest.mark.parametrize(
    "client",
    [
        GlobalModel(learning_rate=50.0, epochs=30),
        GlobalModel(learning_rate=1e30, epochs=3),
        MeanRegularized(learning_rate=1e-3, epochs=2, strength=(0.01, 0.010001, 0.02), final_epochs=3),
    ],
    ids=["unstable", "diverging", "nearly a tie"],
)
def test_rounding_that_training_amplifies_is_no_mixing(client: LocalSGD, engine: str) -> None:
    tried(client, engine)


class Chaotic(GlobalModel):
    """Doubles a difference sixty times; the last bit follows the size of the cohort, as the order of a sum may do."""

    def train(
        self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key
    ) -> tuple[State, Params]:
        state, update = super().train(learner, billboard, state, cohort, key)
        for name, value in update.items():
            update[name] = (1e3 * value).frac().abs() * (1 - len(cohort) * torch.finfo(value.dtype).eps)
            for _ in range(60):
                update[name] = 4 * update[name] * (1 - update[name])
        return state, update


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_the_last_bits_decide_is_no_mixing(dtype: torch.dtype) -> None:
    tried(Chaotic(), dtype=dtype)


class Draws(GlobalModel):
    """Adds noise of one kind or another to what it sends, or in its final fit."""

    kind: str = "torch"
    last: bool = False

    def _drawn(self, learner: Learner, tree: Params, cohort: Cohort, key: Key) -> Params:
        def noise(name: str, value: torch.Tensor) -> torch.Tensor:
            shape = value.shape[1:]
            if self.kind == "torch":
                return torch.randn_like(value)
            if self.kind == "numpy":
                return torch.from_numpy(np.random.normal(size=value.shape))
            if self.kind == "own":
                return torch.from_numpy(np.random.default_rng().normal(size=value.shape))
            if self.kind == "learner.normal":
                return learner.normal(f"tests {name}", cohort, key, shape)
            rows = [key.generator(task).normal(size=shape) for task in cohort.ids.tolist()]
            return torch.from_numpy(np.stack(rows))

        return {name: value + noise(name, value) for name, value in tree.items()}

    def train(
        self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key
    ) -> tuple[State, Params]:
        state, update = super().train(learner, billboard, state, cohort, key)
        return state, update if self.last else self._drawn(learner, update, cohort, key)

    def finish(self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key) -> State:
        return (
            nest("model", self._drawn(learner, broadcast(billboard, len(cohort)), cohort, key)) if self.last else state
        )


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_the_global_generators_are_refused(kind: str, last: bool) -> None:
    stage = "finish" if last else "train"
    with pytest.raises(InputError, match=rf"Draws\.{stage} draws from a global random generator.*learner\.normal"):
        tried(Draws(kind=kind, last=last), dtype=torch.float64)


def test_what_cannot_be_repeated_is_refused_and_what_is_advised_is_not() -> None:
    with pytest.raises(InputError, match=r"Draws\.train gives something else when it is repeated.*key\.generator"):
        tried(Draws(kind="own"), dtype=torch.float64)
    for kind in ("learner.normal", "key.generator(task)"):
        for last in (False, True):
            tried(Draws(kind=kind, last=last), dtype=torch.float64)


class Remembers(MeanRegularized):
    """Sends something that depends on rounds before, and says that it does not."""

    updates_use_state: ClassVar[bool] = False


class Says(MeanRegularized):
    """The same, and says nothing."""

    updates_use_state: ClassVar[bool] = True


class Late(GlobalModel):
    """Remembers how often it took part, and sends less from the second time on."""

    updates_use_state: ClassVar[bool] = False
    uses: bool = True

    def initial_state(self, billboard: Params, cohort: Cohort) -> State:
        return {"count": torch.zeros(len(cohort), dtype=torch.int64)}

    def train(
        self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key
    ) -> tuple[State, Params]:
        _, update = super().train(learner, billboard, {}, cohort, key)
        if self.uses and key.round > 1:
            share = 1.0 / (1 + state["count"])
            update = {
                name: torch.einsum("c,c...->c...", share.to(value.dtype), value) for name, value in update.items()
            }
        return {"count": state["count"] + 1}, update


@pytest.mark.parametrize("client", [Remembers(), Late()], ids=["model", "count"])
def test_a_hidden_state_is_refused(client: LocalSGD) -> None:
    """Cohorts of fixed size would be amplified, and epsilon would be too small."""
    name = type(client).__name__
    with pytest.raises(InputError, match=rf"{name} says updates_use_state = False, but .*leave updates_use_state out"):
        tried(client, dtype=torch.float64)
    assert MeanRegularized.updates_use_state  # what leaving it out says
    for other in (Says(), Late(uses=False)):
        tried(other, dtype=torch.float64)
