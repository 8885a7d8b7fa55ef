"""MAML: a start from which one or a few steps on a handful of examples are enough."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from fedpriv.cohort import (
    Batch,
    ClientAlgorithm,
    Cohort,
    Episodes,
    InnerLoop,
    Key,
    Learner,
    Order,
    Params,
    Population,
    Problem,
    Purpose,
    State,
    Tasks,
    adapt,
    broadcast,
    check_shots,
    draw_episodes,
    meta_gradient,
    refuse_once_differentiable_on,
)
from fedpriv.cohort.private_steps import private_gradients
from fedpriv.errors import InputError
from fedpriv.names import unknown
from fedpriv.privacy.guarantee import Guarantee
from fedpriv.privacy.local import pixel_guarantee, support_guarantee

__all__ = ["MAML"]


class MAML(ClientAlgorithm):
    """In each round a task draws an episode, adapts to its support set, and sends the gradient of the query loss.

    The billboard is the meta-model: it moves along the sum of the (clipped, noisy) meta-gradients. What a person uses
    is the billboard after ``steps`` steps on ``shots`` examples of each class; nobody keeps anything between rounds.

    Noise can be added at four places, in any combination, as plain standard deviations; those promise nothing by
    themselves. Calibrated are: the whole row, clipped and noised on the node (``strategy.noise_at = "node"``); the
    adaptation gradient with ``adaptation_clip``; the pixels, with noise on support *and* query inputs
    (:mod:`fedpriv.privacy.local`).

    Attributes
    ----------
    learning_rate : float
        Step size of the adaptation.
    steps : int
        Steps of the adaptation, in training and use.
    order : {"second", "first"}
        Whether meta-gradients go through the adaptation.
    shots : int
        Support examples of each class.
    queries : int or None
        Query examples of each class; None takes all that are left.
    permute_labels : bool
        Whether classes change names at random in every training episode. It multiplies the episodes of few tasks; only
        for tasks whose classes mean nothing outside the task.
    episodes : {"fresh", "fixed"}
        Whether a task draws support and query anew in every participation, or once for all. Fixed, its support examples
        never are query examples.
    noise_support, noise_query : float
        Standard deviation of the noise on support and query inputs, in their units.
    input_range : tuple of two floats, or None
        Declared range of the inputs. With it they are clamped before the noise, which then promises something.
    noise_adaptation : float
        Standard deviation of the noise on each step's support gradient. With ``adaptation_clip`` it is on the *sum* of
        the clipped gradients, in clips.
    noise_validation : float
        Standard deviation of the noise on the meta-gradient that is sent.
    adaptation_clip : float or None
        Largest norm of one support example's gradient: adaptation as in DP-SGD, first order only.
    from_zero : tuple of str
        Arrays that start from zero in every adaptation and are no part of the meta-model, such as the last layer's
        ``("3.weight", "3.bias")``. Where classes mean nothing outside their task, all outputs should start alike; a
        last layer that is learned has to find that out from data. What is sent of these arrays is zero, before any
        noise on the row; what the billboard holds there is never used, so scores of the billboard itself mean nothing.
        ``strategy.clipping_norms`` may give them a norm close to zero.

    References
    ----------
    Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks. ICML 2017. Noise at four
    places: Rafiei, Maheri, Rabiee: Privacy Challenges in Meta-Learning, figures 9 to 12. Private adaptation: Li,
    Khodak, Caldas, Talwalkar: Differentially Private Meta-Learning. Outputs that start alike: Ye, Chao: How to Train
    Your MAML to Excel in Few-Shot Classification; that start from zero: Kao, Chiu, Chen: MAML is a Noisy Contrastive
    Learner in Classification; both ICLR 2022.
    """

    updates_use_state: ClassVar[bool] = False

    learning_rate: float = Field(default=0.1, gt=0)
    steps: int = Field(default=1, ge=1)
    order: Order = "second"
    shots: int = Field(default=1, ge=1)
    queries: int | None = Field(default=None, ge=1)
    permute_labels: bool = False
    episodes: Literal["fresh", "fixed"] = "fresh"
    noise_support: float = Field(default=0.0, ge=0)
    noise_adaptation: float = Field(default=0.0, ge=0)
    noise_query: float = Field(default=0.0, ge=0)
    input_range: tuple[float, float] | None = None
    noise_validation: float = Field(default=0.0, ge=0)
    adaptation_clip: float | None = Field(default=None, gt=0)
    from_zero: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _private_adaptation_is_first_order(self) -> MAML:
        if self.adaptation_clip is not None and self.order == "second":
            raise ValueError(
                "'adaptation_clip' protects the support set in first order only: a second-order meta-gradient carries "
                "the Hessian of the support loss past the noise; set order = 'first', or put the noise on the whole "
                "row (strategy.noise_at = 'node')."
            )
        return self

    @model_validator(mode="after")
    def _a_range_goes_upwards(self) -> MAML:
        if self.input_range is not None and not self.input_range[0] < self.input_range[1]:
            raise ValueError(f"'input_range' must go from a smaller to a larger number, got {self.input_range}.")
        return self

    @property
    def inner(self) -> InnerLoop:
        """How tasks adapt."""
        return InnerLoop(self.learning_rate, self.steps, self.order)

    @property
    def draws_noise(self) -> bool:
        """Whether any of the four places has noise."""
        return any((self.noise_support, self.noise_adaptation, self.noise_query, self.noise_validation))

    @property
    def billboard_predicts(self) -> bool:
        """Whether the billboard is a model by itself: classes mean the same everywhere, no array is left out."""
        return not self.from_zero and not self.permute_labels

    def check(self, problem: Problem, tasks: Population) -> None:
        """Refuse a model that is not twice differentiable, and tasks without a query example beside the shots."""
        if isinstance(tasks, Tasks):
            check_shots(tasks, self.shots)
        arrays = problem.initial()
        for name in self.from_zero:
            if name not in arrays:
                raise InputError(unknown("array in client.from_zero", name, arrays))
        if set(arrays) == set(self.from_zero):
            raise InputError(
                f"client.from_zero names all {len(arrays)} arrays of the model, so there is nothing left to learn "
                "together; name those of the last layer."
            )
        if self.order == "second":
            refuse_once_differentiable_on(problem, tasks)

    def local_guarantees(
        self, tasks: Population, *, rounds: int, delta: float, reproduction: bool = False
    ) -> tuple[list[Guarantee], list[str]]:
        """Return what is promised about pixels and support examples, and say which noise promises nothing."""
        common: dict[str, Any] = {"delta": delta, "num_tasks": len(tasks), "reproduction": reproduction}
        found, plain = [], []
        on_data = min(self.noise_support, self.noise_query)
        if on_data and self.input_range is not None:
            low, high = self.input_range
            values = prod(tasks.input_shape)
            found.append(pixel_guarantee(on_data, values=values, low=low, high=high, participations=rounds, **common))
        else:
            why = (
                "declare client.input_range"
                if on_data
                else "noise both support and query inputs, and declare client.input_range"
            )
            given = {"noise_support": self.noise_support, "noise_query": self.noise_query}
            plain += [_plain(name, std, why) for name, std in given.items() if std]
        if self.noise_adaptation and self.adaptation_clip is not None and self.episodes == "fixed":
            found.append(
                support_guarantee(
                    self.noise_adaptation, self.adaptation_clip, steps=self.steps, participations=rounds, **common
                )
            )
        elif self.noise_adaptation:
            why = "set client.adaptation_clip, client.order = 'first' and client.episodes = 'fixed'"
            plain.append(_plain("noise_adaptation", self.noise_adaptation, why))
        if self.noise_validation:
            why = "set strategy.noise_at = 'node' instead, which clips first"
            plain.append(_plain("noise_validation", self.noise_validation, why))
        return found, plain

    def train(
        self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key
    ) -> tuple[State, Params]:
        """Send the negative meta-gradient of one episode."""
        drawn = self.draw(cohort, key)
        support = self._noisy(learner, drawn.support, "maml support", self.noise_support, cohort, key)
        query = self._noisy(learner, drawn.query, "maml query", self.noise_query, cohort, key)

        def step_gradient(step: int, here: Params) -> Params:
            return private_gradients(
                learner, here, support, cohort, key, step, self.noise_adaptation, self.adaptation_clip, self.order
            )

        noisy = self.noise_adaptation > 0 or self.adaptation_clip is not None
        found = meta_gradient(
            learner.engine,
            learner.problem,
            broadcast(self.begin(billboard), len(cohort)),
            support,
            query,
            self.inner,
            step_gradient=step_gradient if noisy else None,
        )
        update = {name: value.neg_() for name, value in found.gradient.items()}
        if self.noise_validation:
            update = {
                name: learner.noisy(value, self.noise_validation, f"maml validation {name}", cohort, key)
                for name, value in update.items()
            }
        for name in self.from_zero:
            update[name].zero_()
        self._count(learner, cohort, drawn)
        return state, update

    def begin(self, billboard: Params) -> Params:
        """Return where every task begins: the billboard, with zeros for the arrays of ``from_zero``."""
        return {name: torch.zeros_like(value) if name in self.from_zero else value for name, value in billboard.items()}

    def draw(self, cohort: Cohort, key: Key) -> Episodes:
        """Return the episodes of one participation, before any noise."""
        seen = key if self.episodes == "fresh" else replace(key, round=0)
        return draw_episodes(
            cohort,
            replace(seen, purpose=Purpose.EPISODE),
            shots=self.shots,
            queries=self.queries,
            permute_labels=self.permute_labels,
        )

    def models(self, learner: Learner, billboard: Params, state: State, cohort: Cohort) -> Params:  # noqa: ARG002
        """Return the billboard after each task adapted it to ``shots`` examples of its train part, without noise.

        The examples are the same in every evaluation, so that rounds can be compared.
        """
        return self.adapted(learner, billboard, cohort)

    def adapted(self, learner: Learner, billboard: Params, cohort: Cohort) -> Params:
        """Return what each task uses for itself, [C, ...]."""
        drawn = draw_episodes(cohort, Key(0, 0, Purpose.EPISODE), shots=self.shots, queries=0)
        start = broadcast(self.begin(billboard), len(cohort))
        return adapt(learner.engine, learner.problem, start, drawn.support, self.inner)

    def _noisy(self, learner: Learner, batch: Batch, purpose: str, std: float, cohort: Cohort, key: Key) -> Batch:
        if self.input_range is not None:
            batch = replace(batch, inputs=batch.inputs.clamp(*self.input_range))
        if not std:
            return batch
        noisy = learner.noisy(batch.inputs, std, purpose, cohort, key)
        mask = batch.mask.view(*batch.mask.shape, *[1] * (noisy.dim() - 2))
        return replace(batch, inputs=torch.where(mask > 0, noisy, batch.inputs))

    def _count(self, learner: Learner, cohort: Cohort, drawn: Episodes) -> None:
        """Count gradients per example; a Hessian times a vector costs as much as two."""
        each = self.steps * (3 if self.order == "second" else 1)
        learner.count(cohort, drawn.examples @ np.array([each, 1]))
        learner.cells += each * drawn.support.mask.numel() + drawn.query.mask.numel()


def _plain(name: str, std: float, instead: str) -> str:
    return f"client.{name} = {std:g} is a plain standard deviation: no guarantee follows from it; for one, {instead}."
