"""The interface of a client algorithm: short pure functions on tensors with a leading task axis.

A real client is a cohort of one, a simulation shard a cohort of hundreds; there is no second implementation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer
from torch import Tensor

from fedpriv.cohort.cohort import Cohort
from fedpriv.cohort.learner import Learner, Scores
from fedpriv.cohort.problem import Problem
from fedpriv.cohort.randomness import Key
from fedpriv.cohort.tasks import Population
from fedpriv.cohort.trees import Params, State, broadcast
from fedpriv.settings import Settings

if TYPE_CHECKING:
    from fedpriv.privacy.guarantee import Guarantee

__all__ = ["ClientAlgorithm", "LocalSGD"]


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class ClientAlgorithm(Settings, ABC):
    """What a task does with a billboard, its personal state and its own data.

    Attributes
    ----------
    sends_update : bool
        False for an algorithm that keeps everything to itself.
    keeps_parts : bool
        Whether ``share`` means something to it: its state holds the parameters that stay with the task
        (``unnest(KEPT, state)``), it trains them with the billboard's, and returns them so.
    names_what_is_shared : bool
        False, by itself, for a class that declares a setting ``share`` of its own, which means something else.
    updates_use_state : bool
        False if an update depends on the billboard, the task's own data and the key of its round only, never on rounds
        before. It decides whether cohorts of fixed size are amplified: said falsely it makes epsilon too small. A dry
        run refuses what it sees, which is two rounds of made-up tasks.
    share : tuple of str
        Patterns of parameter names that are shared, such as ``("body.*",)``; ``*`` stands for any letters, dots too.
        The others stay with each task: they begin at the model's public initial values, are on no billboard, and are
        neither clipped nor met by noise. All are shared unless given.
    """

    sends_update: ClassVar[bool] = True
    keeps_parts: ClassVar[bool] = False
    names_what_is_shared: ClassVar[bool] = True
    updates_use_state: ClassVar[bool] = True

    share: Annotated[tuple[str, ...], BeforeValidator(_several)] = ()

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Forget what a parent said where a class does its work anew and says nothing itself."""
        if "updates_use_state" not in vars(cls) and {"train", "fit"} & vars(cls).keys():
            cls.updates_use_state = True
        if "keeps_parts" not in vars(cls) and {"train", "finish", "personal"} & vars(cls).keys():
            cls.keeps_parts = False
        if "share" in vars(cls).get("__annotations__", {}) and "names_what_is_shared" not in vars(cls):
            cls.names_what_is_shared = False

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = whole(self)
        unused = self.names_what_is_shared and not self.share
        return {name: value for name, value in found.items() if name != "share"} if unused else found

    @property
    def patterns(self) -> tuple[str, ...]:
        """What ``share`` names; nothing where a client of one's own has another setting of that name."""
        return self.share if self.names_what_is_shared else ()

    @property
    def uses_state(self) -> bool:
        """Whether updates depend on rounds before: by the class, or by what stays with the task."""
        return self.updates_use_state or bool(self.patterns)

    @property
    def draws_noise(self) -> bool:
        """Whether tasks draw local noise (``learner.normal``)."""
        return False

    @property
    def leaves_still(self) -> str | None:
        """The setting by which part of the billboard shall not move in some rounds, though it is published; or None."""
        return None

    @property
    def billboard_predicts(self) -> bool:
        """Whether the billboard is a model by itself, before a task adapts it."""
        return not self.patterns

    def check(self, problem: Problem, tasks: Population) -> None:
        """Refuse, before anything starts, a model or tasks with which this algorithm cannot work.

        A server without data asks with a roster, a node with its own tasks: look at numbers of examples only where
        there are any.

        Raises
        ------
        InputError
            One sentence that says what does not fit and what to do.
        """

    def local_guarantees(
        self,
        tasks: Population,  # noqa: ARG002
        *,
        rounds: int,  # noqa: ARG002
        delta: float,  # noqa: ARG002
        reproduction: bool = False,  # noqa: ARG002
    ) -> tuple[list[Guarantee], list[str]]:
        """Return what local noise promises about examples, and sentences about noise that promises nothing."""
        return [], []

    def initial_state(self, billboard: Params, cohort: Cohort) -> State:  # noqa: ARG002
        """Return the personal state [C, ...] of tasks that take part for the first time.

        It may depend on the billboard and the tasks' own data only (design, invariant 9).
        """
        return {}

    @abstractmethod
    def train(
        self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key
    ) -> tuple[State, Params]:
        """Do one round: return the new personal state and the update, both [C, ...].

        What a task gets may not depend on the other tasks of the cohort, or clipping bounds nothing.
        """

    def finish(self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key) -> State:  # noqa: ARG002
        """Do what remains after the last round (a final local fit); nothing is sent."""
        return state

    def personal(self, billboard: Params, state: State, cohort: Cohort) -> Params:  # noqa: ARG002
        """Return the model [C, ...] that each task uses for itself; the billboard unless overridden."""
        return broadcast(billboard, len(cohort))

    def models(self, learner: Learner, billboard: Params, state: State, cohort: Cohort) -> Params:  # noqa: ARG002
        """Return the models [C, ...] that are scored, and that can be taken out of a run: those of :meth:`personal`.

        Override it where a model has to be computed from a task's data once more.
        """
        return self.personal(billboard, state, cohort)

    def evaluate(self, learner: Learner, billboard: Params, state: State, cohort: Cohort) -> Scores:
        """Score each task's model on its test part."""
        return learner.evaluate(self.models(learner, billboard, state, cohort), cohort)


class LocalSGD(ClientAlgorithm):
    """Settings shared by all algorithms that train with mini-batch SGD."""

    learning_rate: float = Field(default=0.1, gt=0, description="step size of local SGD")
    epochs: int = Field(default=1, ge=1, description="passes over a task's data in each round")
    steps: int | None = Field(default=None, ge=1, description="mini-batches in each round, instead of epochs")
    batch_size: int = Field(default=10, ge=1, description="largest mini-batch")
    momentum: float = Field(default=0.0, ge=0, lt=1, description="momentum of local SGD, from rest in every round")

    def fit(
        self,
        learner: Learner,
        start: Params,
        cohort: Cohort,
        key: Key,
        *,
        epochs: int | None = None,
        anchor: Params | None = None,
        strength: float | Tensor = 0.0,
        examples: NDArray[np.int64] | None = None,
    ) -> Params:
        """Train from ``start`` with these settings; ``epochs`` overrides how long, ``examples`` on which of them."""
        use_steps = self.steps is not None and epochs is None
        return learner.sgd(
            start,
            cohort,
            key,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            epochs=None if use_steps else (self.epochs if epochs is None else epochs),
            steps=self.steps if use_steps else None,
            anchor=anchor,
            strength=strength,
            momentum=self.momentum,
            examples=examples,
        )
