"""One model for all: FedAvg and FedProx, with an optional personal fit at the end."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from fedpriv.cohort import KEPT, Cohort, Key, Learner, LocalSGD, Params, State, broadcast, nest, unnest

__all__ = ["FedProx", "GlobalModel"]


class GlobalModel(LocalSGD):
    """FedAvg: every round starts from the billboard and sends the drift away from it.

    Attributes
    ----------
    final_epochs : int
        Epochs of a last local fit from the last billboard (fine-tuning); 0 keeps the billboard for everybody.
    final_strength : float
        Pull towards the billboard during that fit (``strength / 2 * ||w - billboard||^2``).

    References
    ----------
    McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, Algorithm 1. With
    ``share``: Arivazhagan et al., Federated Learning with Personalization Layers, Algorithm 1.
    """

    keeps_parts: ClassVar[bool] = True
    updates_use_state: ClassVar[bool] = False

    final_epochs: int = Field(default=0, ge=0)
    final_strength: float = Field(default=0.0, ge=0)

    def train(
        self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key
    ) -> tuple[State, Params]:
        """Train from the billboard; keep nothing but what is not shared."""
        own = unnest(KEPT, state)
        start = broadcast(billboard, len(cohort)) | own
        model = self.fit(learner, start, cohort, key, anchor=billboard, strength=self.pull)
        sent = {name: model[name].sub_(value) for name, value in billboard.items()}  # nobody else has the model
        return nest(KEPT, {name: model[name] for name in own}), sent

    @property
    def pull(self) -> float:
        """Strength of the proximal term during training."""
        return 0.0

    def finish(self, learner: Learner, billboard: Params, state: State, cohort: Cohort, key: Key) -> State:
        """Fine-tune the last billboard on each task's own data."""
        if not self.final_epochs:
            return state
        start = broadcast(billboard, len(cohort)) | unnest(KEPT, state)
        model = self.fit(
            learner,
            start,
            cohort,
            key,
            epochs=self.final_epochs,
            anchor=billboard,
            strength=self.final_strength,
        )
        return nest("model", model)

    def personal(self, billboard: Params, state: State, cohort: Cohort) -> Params:
        """Return the fine-tuned models, or the billboard where there are none."""
        return unnest("model", state) or broadcast(billboard, len(cohort)) | unnest(KEPT, state)


class FedProx(GlobalModel):
    """FedAvg with a proximal term ``mu / 2 * ||w - billboard||^2`` in every local step.

    Attributes
    ----------
    mu : float
        Strength of the proximal term.

    References
    ----------
    Li et al., Federated Optimization in Heterogeneous Networks, Algorithm 2.
    """

    mu: float = Field(default=0.1, ge=0)

    @property
    def pull(self) -> float:
        """Strength of the proximal term during training."""
        return self.mu
