"""What is learned: a pure model and a loss, the same for every task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedpriv.cohort.trees import Params
from fedpriv.errors import InputError

__all__ = ["Loss", "Problem"]

Loss = Literal["cross-entropy", "squared"]


@dataclass(frozen=True)
class Problem:
    """A model as a pure function of its parameters, with a loss averaged over examples.

    Attributes
    ----------
    model : nn.Module
        Gives structure and public initial values; it is never modified.
    loss : {"cross-entropy", "squared"}
        Classification, or half the squared error summed over outputs.
    """

    model: nn.Module
    loss: Loss = "cross-entropy"

    def __post_init__(self) -> None:
        _refuse_impure(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the parameters."""
        return next(self.model.parameters()).dtype

    @property
    def num_parameters(self) -> int:
        """Number of scalars on the billboard."""
        return sum(value.numel() for value in self.model.parameters())

    def initial(self) -> Params:
        """Return the public initial parameters, detached."""
        return {name: value.detach().clone() for name, value in self.model.named_parameters()}

    def predict(self, params: Params, inputs: Tensor) -> Tensor:
        """Return the outputs of one task's model for inputs [n, ...]."""
        return cast(Tensor, functional_call(self.model, cast(dict[str, Any], params), (inputs,)))

    def losses(self, params: Params, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss and correctness (0 or 1; 0 for regression) of every example, both [n]."""
        return self.judge(self.predict(params, inputs), targets)

    def judge(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss and correctness of outputs [n, ...], both [n]."""
        if self.loss == "cross-entropy":
            loss = nn.functional.cross_entropy(outputs, targets, reduction="none")
            return loss, (outputs.argmax(dim=-1) == targets).to(loss.dtype)
        error = (outputs.reshape(targets.shape) - targets).reshape(len(targets), -1)
        loss = 0.5 * error.square().sum(dim=-1)
        return loss, torch.zeros_like(loss)

    def mean_loss(self, params: Params, inputs: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        """Return one task's loss averaged over its real examples (a scalar; 0 without examples)."""
        loss, _ = self.losses(params, inputs, targets)
        return torch.where(mask > 0, loss, 0.0).sum() / mask.sum().clamp(min=1.0)


def _refuse_impure(model: nn.Module) -> None:
    """Refuse, by the layer's name, whatever would carry data past the clipped update or draw hidden randomness."""
    for name, layer in model.named_modules():
        kind = type(layer).__name__
        if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.track_running_stats:
            raise InputError(
                f"layer {name!r} ({kind}) keeps running statistics of the data outside the clipped update; "
                "replace it by GroupNorm or LayerNorm."
            )
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise InputError(f"layer {name!r} ({kind}) mixes the examples of a batch; replace it by GroupNorm.")
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0:
            raise InputError(
                f"layer {name!r} ({kind}) draws from the global generator, so results would depend on "
                "sharding; remove it."
            )
    first: dict[int, str] = {}
    for name, layer in model.named_modules(remove_duplicate=False):
        if first.setdefault(id(layer), name) != name and any(True for _ in layer.parameters()):
            # torch's functional_call leaves the parameters of such a layer changed behind it.
            raise InputError(
                f"layer {name!r} is layer {first[id(layer)]!r} again; register it once and call it twice in forward."
            )
    slashed = [name for name, _ in model.named_parameters() if "/" in name]
    if slashed:
        raise InputError(
            f"the parameter {slashed[0]!r} has a slash in its name, which messages cannot carry; rename it."
        )
    buffers = [name for name, _ in model.named_buffers()]
    if buffers:
        raise InputError(
            f"the model has buffers ({', '.join(buffers)}) that would escape clipping and noise; "
            "make them parameters or constants."
        )
    if not any(True for _ in model.parameters()):
        raise InputError(f"the model {type(model).__name__} has no parameters to learn; choose another model.")
    kinds = {value.dtype for value in model.parameters()}
    if len(kinds) != 1 or not next(iter(kinds)).is_floating_point:
        raise InputError(f"the model's parameters must share one floating type, got {sorted(map(str, kinds))}.")
