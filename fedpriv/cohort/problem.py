"""What is learned: a pure model and a loss, the same for every task."""

from __future__ import annotations

import hashlib
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedpriv.cohort.trees import Params
from fedpriv.errors import InputError

__all__ = ["Loss", "Problem", "own_copy"]

Loss = Literal["cross-entropy", "squared"]


@dataclass(frozen=True)
class Problem:
    """A model as a pure function of its parameters, with a loss averaged over examples.

    Parameters that are frozen (``requires_grad_(False)``), and buffers that stay as they are, are public constants: no
    task trains them, and they are on no billboard.

    Attributes
    ----------
    model : nn.Module
        Gives structure, public initial values and constants; it is never modified. Tasks train it in the mode that it
        is in, and are scored in evaluation mode.
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
        return next(value for value in self.model.parameters() if value.requires_grad).dtype

    @property
    def num_parameters(self) -> int:
        """Number of scalars on the billboard."""
        return sum(value.numel() for value in self.model.parameters() if value.requires_grad)

    @property
    def num_constants(self) -> int:
        """Number of scalars that are frozen, buffers included."""
        return sum(value.numel() for _, value in _constants(self.model))

    def initial(self) -> Params:
        """Return the public initial parameters that tasks learn, detached."""
        named = self.model.named_parameters()
        return {name: value.detach().clone() for name, value in named if value.requires_grad}

    def digests(self) -> dict[str, str]:
        """Return a digest of every constant by name: whether one has moved."""
        return {
            name: hashlib.sha256(value.detach().contiguous().view(-1).view(torch.uint8).numpy().data).hexdigest()
            for name, value in _constants(self.model)
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all values that the model starts from, learned and constant: public, so that it may be kept."""
        found = hashlib.sha256()
        for name, value in chain(self.model.named_parameters(), self.model.named_buffers()):
            found.update(f"{name} {value.dtype} {tuple(value.shape)}\0".encode())
            found.update(value.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()

    @cached_property
    def scored(self) -> Problem:
        """The same in evaluation mode, with the same memory: what a model does in training only is off there."""
        same = {id(value): value for value in chain(self.model.parameters(), self.model.buffers())}
        return Problem(deepcopy(self.model, cast(dict[int, Any], same)).eval(), self.loss)

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


def own_copy(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy of somebody's module in main memory, with floating values of one type.

    Raises
    ------
    InputError
        It cannot be copied, or a copy would be another model.
    """
    _refuse_kinds(model)
    try:
        copied = deepcopy(model)
    except Exception as error:
        raise InputError(
            f"the model {type(model).__name__} cannot be copied ({str(error).splitlines()[0]}); build it anew, and "
            "keep nothing in it that was computed from its parameters."
        ) from error
    return copied.to("cpu", dtype)


def _constants(model: nn.Module) -> list[tuple[str, Tensor]]:
    frozen = [(name, value) for name, value in model.named_parameters() if not value.requires_grad]
    return [*frozen, *model.named_buffers()]


def _refuse_kinds(model: nn.Module) -> None:
    """Refuse modules of which no pure function can be made, and values that the type of a run would change."""
    kind = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(f"the model {kind} is a script, which takes no other parameters; give the module itself.")
    for wrapper, inner in (("OptimizedModule", "_orig_mod"), ("DataParallel", "module")):
        if kind == wrapper:
            raise InputError(f"the model is wrapped in {kind}; give the module inside, model.{inner}.")
    for name, value in chain(model.named_parameters(), model.named_buffers()):
        if nn.parameter.is_lazy(value):
            raise InputError(f"{name!r} of the model {kind} has no shape yet; run one example through the model first.")
        if value.is_complex():
            raise InputError(f"{name!r} of the model {kind} is complex; use two real parameters in its place.")
        if value.is_meta:
            raise InputError(f"{name!r} of the model {kind} has no values (device 'meta'); load its weights first.")
    for name, value in model.named_parameters():  # a buffer may be a mask of infinities
        if not bool(torch.isfinite(value.detach()).all()):
            raise InputError(
                f"{name!r} of the model {kind} holds a NaN or an infinity before any training; initialise it, or load "
                "other weights."
            )


def _refuse_impure(model: nn.Module) -> None:
    """Refuse, by the layer's name, whatever would carry data past the clipped update or draw hidden randomness."""
    _refuse_kinds(model)
    for name, layer in model.named_modules():
        kind = type(layer).__name__
        norm = isinstance(layer, nn.modules.batchnorm._NormBase)
        if norm and not layer.training and layer.running_mean is not None:
            continue  # its statistics are constants: layer.eval()
        if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.track_running_stats:
            raise InputError(
                f"layer {name!r} ({kind}) keeps running statistics of the data outside the clipped update; "
                "replace it by GroupNorm or LayerNorm, or keep its statistics as they are with .eval() on this layer."
            )
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise InputError(f"layer {name!r} ({kind}) mixes the examples of a batch; replace it by GroupNorm.")
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0 and layer.training:
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
    buffers = [
        f"{name}.{own}".lstrip(".")
        for name, layer in model.named_modules()
        for own, _ in layer.named_buffers(recurse=False)
        # Statistics of norms were judged above. The others are constants if their author says so; a dry run checks it.
        if own not in layer._non_persistent_buffers_set and not isinstance(layer, nn.modules.batchnorm._NormBase)
    ]
    if buffers:
        raise InputError(
            f"the model has buffers ({', '.join(buffers)}) that would escape clipping and noise; make them parameters, "
            "or register them with persistent=False if forward never changes them."
        )
    values = list(model.parameters())
    if not values:
        raise InputError(f"the model {type(model).__name__} has no parameters to learn; choose another model.")
    if not any(value.requires_grad for value in values):
        raise InputError(
            f"all parameters of the model {type(model).__name__} are frozen, so there is nothing to learn; unfreeze "
            "some with requires_grad_(True)."
        )
    kinds = {value.dtype for value in values if value.requires_grad or value.is_floating_point()}
    if len(kinds) != 1 or not next(iter(kinds)).is_floating_point:
        raise InputError(f"the model's parameters must share one floating type, got {sorted(map(str, kinds))}.")
