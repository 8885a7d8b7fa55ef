"""All stages of an algorithm on made-up tasks: what they return has the right form, and is each task's own.

Clipping bounds what one task adds to a sum. It bounds nothing if the update of a task depends on the other tasks that
happen to be in its cohort, so a dry run computes tasks together and each one alone, and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from fedpriv.cohort.algorithm import ClientAlgorithm
from fedpriv.cohort.cohort import Cohort
from fedpriv.cohort.engine import Engine
from fedpriv.cohort.learner import Learner
from fedpriv.cohort.problem import Problem
from fedpriv.cohort.purity import generators, made_up
from fedpriv.cohort.randomness import Key, Purpose
from fedpriv.cohort.sharing import Sharing
from fedpriv.cohort.trees import KEPT, Params, State, nest, one, unnest
from fedpriv.errors import InputError

__all__ = ["Stages"]

_RELATIVE, _OF_BILLBOARD = 1e-3, 1e-5
"""How far results of one task may differ in float32, of their own largest value and of the billboard's."""

_DOUBLE = 1e-6
"""The share of that in float64."""

Found = TypeVar("Found")


class Stages:
    """An algorithm with a model and an engine, on made-up tasks.

    Attributes
    ----------
    stage : str
        What runs, or ran last.
    learner : Learner
        Counts the gradient work of :meth:`run`. Noise of the tasks' own is the same whenever a stage is repeated.
    """

    def __init__(self, algorithm: ClientAlgorithm, problem: Problem, engine: Engine) -> None:
        from fedpriv.privacy.entropy import ReproducibleEntropy

        self.algorithm, self.name, self.stage = algorithm, type(algorithm).__name__, ""
        self.learner = Learner(problem, engine, noise=ReproducibleEntropy(0))
        self.sharing = Sharing.of(algorithm, problem)
        self.billboard = self.sharing.billboard
        self.trained = 0

    def run(self, cohort: Cohort) -> dict[str, Params]:
        """Run every stage once; return what each gives, [C, ...], by its name.

        Raises
        ------
        InputError
            What a stage gives does not have its form, or it writes or draws where it may not.
        """
        algorithm, billboard, learner = self.algorithm, self.billboard, self.learner
        public = {name: value.clone() for name, value in billboard.items()}
        found: dict[str, Params] = {}
        state = self._do("initial_state", self._initial_state, cohort, billboard)
        found["initial_state"] = _cloned(state)  # a stage may write into the state that it gets
        state, update = self._do("train", self._train, cohort, billboard, state, 1)
        for name, value in public.items():
            if not torch.equal(billboard[name], value):
                raise InputError(
                    f"{self.name}.train must not write into the billboard, which other tasks start from; clone "
                    f"{name!r}."
                )
        found["train"] = nest("state", _cloned(state)) | nest("update", update)
        self.trained = sum(learner.work.values())
        key = Key(0, 0, Purpose.FINISH)
        state = self._do("finish", algorithm.finish, learner, billboard, state, cohort, key)
        found["finish"] = _cloned(state)
        self._check_state(state, len(cohort))
        scores = self._do("evaluate", algorithm.evaluate, learner, billboard, state, cohort)
        found["evaluate"] = {"loss": scores.loss}
        return found

    def refuse_mixing(self, together: dict[str, Params], cohort: Cohort, others: Sequence[Cohort]) -> None:
        """Refuse results of tasks that depend on the other tasks of their cohort.

        Parameters
        ----------
        together : dict
            What :meth:`run` gave for the cohort.
        cohort : Cohort
            Tasks whose data differ.
        others : sequence of Cohort
            For each task of the cohort, the same cohort with other tasks in the place of all but this one.

        Raises
        ------
        InputError
            Computed alone, with its own id and key, a task gets something else beyond rounding.
        """
        apart = Stages(self.algorithm, self.learner.problem, self.learner.engine)
        for position, replaced in enumerate(others):
            mine, whole = cohort.one(position), _rows(together, position)
            alone = self._elsewhere(apart, mine)
            where = self._differs(whole, alone)
            if where is None:
                continue
            if self._differs(self._elsewhere(apart, mine), alone) is not None:
                raise InputError(
                    f"{self.name}.{where} gives something else when it is repeated with the same data and key; draw "
                    "numbers from key.generator(task) for each id in cohort.ids, and secret noise from learner.normal."
                )
            elsewhere = self._differs(whole, _rows(self._elsewhere(apart, replaced), position))
            if elsewhere is None and self._amplifies_rounding(mine, alone):
                continue
            raise InputError(
                f"{self.name}.{elsewhere or where} gives a task something else together with other tasks than alone, "
                "so clipping would bound nothing; sum, average or normalise over the axes after the first only, which "
                "is the axis of the tasks."
            )

    def refuse_hidden_state(self, cohort: Cohort) -> None:
        """Refuse ``updates_use_state = False`` of an algorithm whose update does depend on rounds before.

        Raises
        ------
        InputError
            After a round on another billboard the update is another one than for a first participation.
        """
        if self.algorithm.uses_state or not self.algorithm.sends_update:
            return
        fresh = self._do("initial_state", self._initial_state, cohort, self.billboard)
        other = {name: value + 0.1 * made_up(torch.zeros_like(value)) for name, value in self.billboard.items()}
        state = self._do("initial_state", self._initial_state, cohort, other)
        state, _ = self._do("train", self._train, cohort, other, state, 1)
        if not fresh and not state:
            return
        _, first = self._do("train", self._train, cohort, self.billboard, fresh, 2)
        _, later = self._do("train", self._train, cohort, self.billboard, state, 2)
        if self._differs({"train": first}, {"train": later}) is not None:
            raise InputError(
                f"{self.name} says updates_use_state = False, but what it sends depends on the state of rounds before, "
                "for which epsilon would be too small; leave updates_use_state out."
            )

    def _elsewhere(self, other: Stages, cohort: Cohort) -> dict[str, Params]:
        try:
            return other.run(cohort)
        finally:
            self.stage = f"{other.stage} of a cohort of {len(cohort)}"

    def _amplifies_rounding(self, mine: Cohort, alone: dict[str, Params]) -> bool:
        """Tell training that turns a change in the last bits into another result, as where a choice is nearly a tie."""
        other = Stages(self.algorithm, self.learner.problem, self.learner.engine)
        for turn in range(3):
            for name, value in self.billboard.items():
                step = torch.cos(torch.arange(value.numel(), dtype=value.dtype) + turn).view(value.shape)
                other.billboard[name] = value + 64 * torch.finfo(value.dtype).eps * step * value.abs().clamp(min=0.1)
            if self._differs(other.run(mine), alone) is not None:
                return True
        return False

    def _do(self, stage: str, call: Callable[..., Found], *arguments: object) -> Found:
        self.stage, before = stage, generators()
        found = call(*arguments)
        if generators() != before:
            raise InputError(
                f"{self.name}.{stage} draws from a global random generator, so results would depend on sharding and "
                "nobody could repeat them; draw numbers from key.generator(task) for each id in cohort.ids, and secret "
                "noise from learner.normal."
            )
        return found

    def _initial_state(self, cohort: Cohort, billboard: Params) -> State:
        state = self.sharing.first_state(self.algorithm, billboard, cohort)
        self._check_state(state, len(cohort))
        return state

    def _train(self, cohort: Cohort, billboard: Params, state: State, number: int) -> tuple[State, Params]:
        state, update = self.algorithm.train(self.learner, billboard, state, cohort, Key(0, number))
        self._check_state(state, len(cohort))
        if unnest(KEPT, state).keys() != self.sharing.kept.keys():
            raise InputError(
                f"{self.name} says keeps_parts = True, and its train returns a state without what stays with the task, "
                f"{sorted(self.sharing.kept)}; return these in nest(KEPT, ...), as they come in unnest(KEPT, state)."
            )
        if not self.algorithm.sends_update:
            return state, {}
        wanted = {key: (len(cohort), *value.shape) for key, value in billboard.items()}
        found = {key: tuple(value.shape) for key, value in update.items()}
        if wanted != found:
            raise InputError(
                f"{self.name}.train must return an update of the billboard's names and shapes with a task axis, "
                f"{wanted}, got {found}."
            )
        return state, update

    def _check_state(self, state: State, tasks: int) -> None:
        for key, value in state.items():
            if not isinstance(value, Tensor) or value.dim() < 1 or len(value) != tasks:
                got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise InputError(
                    f"{self.name}.{self.stage} must return a state of tensors with a task axis [{tasks}, ...], got "
                    f"{got} for {key!r}; use nest() for trees in trees."
                )

    def _differs(self, some: dict[str, Params], others: dict[str, Params]) -> str | None:
        """Return the first stage in which two runs differ by more than rounding."""
        share = _DOUBLE if self.learner.problem.dtype == torch.float64 else 1.0
        public = max(float(value.abs().max()) if value.numel() else 0.0 for value in self.billboard.values())
        for stage, tree in some.items():
            if tree.keys() != others[stage].keys():
                return stage
            for name, value in tree.items():
                if not _close(value, others[stage][name], share, public):
                    return stage
        return None


def _close(some: Tensor, other: Tensor, share: float, public: float) -> bool:
    if some.shape != other.shape or not some.is_floating_point():
        return torch.equal(some, other)
    some, other = some.detach().double(), other.detach().double()
    finite = some.isfinite() & other.isfinite()  # where training diverges nothing can be told
    largest = float(other[finite].abs().max()) if bool(finite.any()) else 0.0
    return bool(((some - other)[finite].abs() <= share * (_RELATIVE * largest + _OF_BILLBOARD * public)).all())


def _rows(found: dict[str, Params], position: int) -> dict[str, Params]:
    return {stage: one(tree, position) for stage, tree in found.items()}


def _cloned(state: State) -> State:
    return {name: value.clone() for name, value in state.items()}
