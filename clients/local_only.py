"""No sharing: the reference at epsilon 0."""

from __future__ import annotations

from typing import ClassVar

from fedpriv.cohort import Cohort, Key, Learner, LocalSGD, Params, State, broadcast, nest, unnest, zeros_like

__all__ = ["LocalOnly"]


class LocalOnly(LocalSGD):
    """Every task trains its own model from the public start and sends nothing."""

    sends_update: ClassVar[bool] = False

    def initial_state(self, billboard: Params, cohort: Cohort) -> State:
        """Start from the public initial model."""
        return nest("model", broadcast(billboard, len(cohort)))

    def train(
        self,
        learner: Learner,
        billboard: Params,  # noqa: ARG002
        state: State,
        cohort: Cohort,
        key: Key,
    ) -> tuple[State, Params]:
        """Continue the own model."""
        model = self.fit(learner, unnest("model", state), cohort, key)
        return nest("model", model), zeros_like(model)

    def personal(self, billboard: Params, state: State, cohort: Cohort) -> Params:  # noqa: ARG002
        """Return the model that each task kept."""
        return unnest("model", state)
