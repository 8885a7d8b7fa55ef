"""What a module of somebody's own does beside computing: random draws, state of its own, examples that mix.

Found by a dry run on made-up examples, before private data are touched. Each of the three would make what a task sends
depend on other tasks, or on how tasks are put together.
"""

from __future__ import annotations

import hashlib
import pickle
import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from threading import RLock
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from fedpriv.cohort.engine import plain_attention
from fedpriv.cohort.problem import Problem
from fedpriv.errors import InputError

__all__ = ["generators", "generators_kept", "made_up", "refuse_impure_forward", "untouched", "unused_parameters"]

_LONG = 64
"""Examples of a longer batch: a module may do at one length what it does not do at another."""


def made_up(zeros: Tensor) -> Tensor:
    """Return examples that differ from each other where zeros [n, ...] are floating; else the zeros themselves."""
    if not zeros.is_floating_point():
        return zeros
    return torch.sin(torch.arange(1, zeros.numel() + 1, dtype=zeros.dtype)).view(zeros.shape)


def untouched(problem: Problem) -> Problem:
    """Return a copy that may be computed with: what it keeps stays out of the module that tasks use.

    The parameters that tasks learn are the same memory: `Problem.predict` computes with others in their place.
    """
    same = {id(value): value for value in problem.model.parameters() if value.requires_grad}
    return Problem(deepcopy(problem.model, cast(dict[int, Any], same)), problem.loss)


def refuse_impure_forward(problem: Problem, zeros: Tensor) -> None:
    """Refuse a model whose output is not a function of its parameters and of each example alone.

    Parameters
    ----------
    problem : Problem
        The model; it is tried in the mode in which tasks train it, and in evaluation mode. It has not computed yet.
    zeros : Tensor, shape [n, ...]
        Zeros in the shape of several examples.

    Raises
    ------
    InputError
        It draws random numbers, changes itself, keeps something of the examples, or mixes those of a batch.
    """
    inputs = made_up(zeros)
    for use, here in (("training", problem), ("scoring", problem.scored)):
        with plain_attention(), torch.no_grad():
            copies = untouched(here), untouched(here)
            _compute(here, inputs)  # what a model makes once and keeps, such as a table of positions, is made here
            before, coins = _contents(here.model), generators()
            params = problem.initial()
            first = here.predict(params, inputs)
            if coins != generators():
                _refuse_draws(here, inputs, use)
            again = _compute(here, inputs)
            _refuse_changes(problem, params, before, here.model)
            if not _close(first, again):
                raise InputError(
                    f"{_model(here.model)} gives other outputs for the same examples ({use}), so results could not be "
                    "repeated and would depend on sharding; remove what draws random numbers or counts its calls."
                )
            _refuse_kept_data(*copies, inputs)
            for kept in sorted({0, len(inputs) // 2, len(inputs) - 1}):
                _refuse_mixing(here, inputs, [kept], first)
            longer = made_up(zeros.new_zeros((_LONG, *zeros.shape[1:])))
            # Two forward passes of many examples: these three at once, as each met the others above.
            kept_rows = [0, _LONG // 2, _LONG - 1]
            outputs, changed = _compute(copies[0], longer), _on_others(copies[1], longer, kept_rows)
            if changed is not None:
                _refuse_contents(*copies)
                _refuse_mixed(here, kept_rows, outputs, changed)


def unused_parameters(problem: Problem, zeros: Tensor) -> list[str]:
    """Return the names of parameters that no output depends on, on made-up examples."""
    params = {name: value.requires_grad_() for name, value in problem.initial().items()}
    total = problem.predict(params, made_up(zeros)).sum()
    if not total.requires_grad:
        return list(params)
    found = torch.autograd.grad(total, list(params.values()), allow_unused=True)
    return [name for name, value in zip(params, found, strict=True) if value is None]


def _compute(problem: Problem, inputs: Tensor) -> Tensor:
    return problem.predict(problem.initial(), inputs)


def _model(model: nn.Module) -> str:
    return f"the model {type(model).__name__}"


def _refuse_draws(problem: Problem, inputs: Tensor, use: str) -> None:
    """Say which layer draws: the innermost one that moves a generator."""
    found: list[str] = []
    held: list[Any] = []
    starts: dict[str, tuple[object, ...]] = {}

    def watch(name: str, layer: nn.Module) -> None:
        def begin(*_: Any) -> None:
            starts[name] = generators()

        def end(*_: Any) -> None:
            if starts[name] != generators() and not any(inner.startswith(f"{name}.") for inner in found):
                found.append(name)

        held.extend((layer.register_forward_pre_hook(begin), layer.register_forward_hook(end)))

    for name, layer in problem.model.named_modules():
        if name:
            watch(name, layer)
    try:
        _compute(problem, inputs)
    finally:
        for hook in held:
            hook.remove()
    where = _model(problem.model)
    if found:
        where = f"layer {found[0]!r} ({type(problem.model.get_submodule(found[0])).__name__})"
    raise InputError(
        f"{where} draws from a global random generator in {use}, so results would depend on sharding; set its dropout "
        "to 0, or remove what draws."
    )


def _refuse_changes(problem: Problem, given: dict[str, Tensor], before: dict[str, str], model: nn.Module) -> None:
    initial = problem.initial()
    changed = [name for name, value in given.items() if not _same(value, initial[name])]
    after = _contents(model)
    changed += [name for name in after if before.get(name) != after[name]]
    if changed:
        raise InputError(
            f"{_model(model)} changes {changed[0]!r} whenever it computes; what one task's data leave there would "
            "reach other tasks past clipping and noise; keep nothing of a call in the module."
        )


def _refuse_kept_data(one: Problem, two: Problem, inputs: Tensor) -> None:
    """Let two copies see different examples first; they must hold the same then, and compute the same."""
    outputs, others = _compute(one, inputs), _on_others(two, inputs.flatten().flip(0).view(inputs.shape), [])
    if others is None:
        return
    _refuse_contents(one, two)
    if not _close(outputs, _compute(two, inputs)):
        raise _kept(one, "something")


def _refuse_contents(one: Problem, two: Problem) -> None:
    """Compare what two copies hold that saw different examples: a table of positions is the same in both."""
    held, other = _contents(one.model), _contents(two.model)
    differ = [name for name in held | other if held.get(name) != other.get(name)]
    if differ:
        raise _kept(one, repr(differ[0]))


def _kept(problem: Problem, what: str) -> InputError:
    return InputError(
        f"{_model(problem.model)} keeps {what} of the examples that it sees; what one task's data leave there would "
        "reach other tasks past clipping and noise; keep nothing of a call in the module."
    )


def _on_others(problem: Problem, inputs: Tensor, kept: list[int]) -> Tensor | None:
    """Return the outputs where all examples are changed but those at ``kept``; None if there are no others."""
    others = inputs * 0.5 - 0.25 if inputs.is_floating_point() else torch.ones_like(inputs)
    others[kept] = inputs[kept]
    try:
        return _compute(problem, others)
    except Exception:
        if inputs.is_floating_point():
            raise
        return None  # a vocabulary of one token


def _refuse_mixing(problem: Problem, inputs: Tensor, kept: list[int], outputs: Tensor) -> None:
    """Change all examples but those kept: their outputs must stay, or padding would have a part in every update."""
    if len(inputs) < 2:
        return
    changed = _on_others(problem, inputs, kept)
    if changed is not None:
        _refuse_mixed(problem, kept, outputs, changed)


def _refuse_mixed(problem: Problem, kept: list[int], outputs: Tensor, changed: Tensor) -> None:
    if outputs.shape == changed.shape and outputs.dim() and not _close(outputs[kept], changed[kept]):
        raise InputError(
            f"{_model(problem.model)} mixes the examples of a batch: the outputs of one depend on the others; compute "
            "each example for itself (a recurrent layer needs batch_first=True)."
        )


def _close(one: Any, two: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(two, Tensor):
        return True  # refused elsewhere: a model gives one tensor
    return one.shape == two.shape and torch.allclose(one, two, rtol=1e-4, atol=1e-5, equal_nan=True)


def _same(one: Tensor, two: Tensor) -> bool:
    return torch.equal(one, two) or _digest(one) == _digest(two)


def _digest(value: Any) -> str:
    if isinstance(value, Tensor):
        # A lazy tensor, or one of another device, is none that a task computes with.
        value = value.detach().cpu().contiguous().view(-1)
        value = value.view(torch.uint8).numpy() if value.numel() else np.empty(0)
    return hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()


def _contents(model: nn.Module) -> dict[str, str]:
    """Return what every module holds, by name, so that a change can be told."""
    found: dict[str, str] = {}
    for prefix, module in model.named_modules():
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers"):
                found |= {f"{prefix}.{own}".lstrip("."): _told(each) for own, each in value.items()}
            elif key != "_modules":
                found[f"{prefix}.{key}".lstrip(".")] = _told(value)
    return found


def _told(value: Any) -> str:
    """Return a text that changes when a value does; nothing for kinds that are not looked into."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{tuple(value.shape)} {_digest(value)}"
    if isinstance(value, torch.Generator):
        return _digest(value.get_state())
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, random.Random):
        return _digest(np.frombuffer(repr(value.getstate()).encode(), dtype=np.uint8))
    if isinstance(value, dict):
        return "; ".join(f"{key!r}: {_told(each)}" for key, each in value.items())
    if isinstance(value, list | tuple | deque):
        return "; ".join(map(_told, value))
    return repr(value) if isinstance(value, str | bytes | int | float | complex | None) else ""


def generators() -> tuple[object, ...]:
    """Return what the global generators of torch, numpy and Python stand at, to be compared."""
    return torch.get_rng_state().numpy().tobytes(), pickle.dumps(np.random.get_state()), random.getstate()


_ALONE = RLock()


@contextmanager
def generators_kept() -> Iterator[None]:
    """Leave the global generators as they were. One thread at a time: no other one's draws are taken for a module's."""
    with _ALONE:
        torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()
        try:
            yield
        finally:
            torch.set_rng_state(torch_state)
            np.random.set_state(numpy_state)
            random.setstate(python_state)
