"""Networks of users' own, made by name: their initial values follow from the seed alone, so all nodes have the same."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedpriv.errors import FedprivError, InputError, OwnCodeError
from fedpriv.names import unknown
from fedpriv.own_code import failure

__all__ = ["build_own", "refuse_no_maker"]

_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def refuse_no_maker(name: str, found: Any) -> None:
    """Refuse what makes no module.

    Raises
    ------
    InputError
        It is a module already, or nothing that can be called.
    """
    if isinstance(found, nn.Module):
        raise InputError(
            f"model.name = {name!r} is a module made already; name its class, or a function that makes it, so that "
            "its initial values follow from the seed of the run."
        )
    if not callable(found) or (isinstance(found, type) and not issubclass(found, nn.Module)):
        what = found.__name__ if isinstance(found, type) else type(found).__name__
        raise InputError(
            f"model.name = {name!r} is of the type {what}; name a class that inherits from torch.nn.Module, or a "
            "function that returns one."
        )


def build_own(name: str, make: Callable[..., Any], settings: Mapping[str, Any], seed: int) -> nn.Module:
    """Make a module with settings as keyword arguments, twice, and see that it has the same values each time.

    Parameters
    ----------
    name : str
        For sentences.
    make : callable
        The class, or a function.
    settings : mapping
        Keyword arguments.
    seed : int
        What the generators of torch, numpy and Python are set to meanwhile; they are left as they were.

    Raises
    ------
    InputError
        It cannot be made so.
    """
    _refuse_arguments(name, make, settings)
    module, again = _made(name, make, settings, seed), _made(name, make, settings, seed)
    others = dict(_values(again))
    for key, value in _values(module):
        there = others.get(key)
        if there is None or not _same(value, there):
            raise InputError(
                f"{key!r} of the model {name!r} has other initial values each time it is made, so nodes would not have "
                "the same; draw them by torch, numpy or random from their global generators, which the seed of the run "
                "sets."
            )
    return module


def _values(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _same(one: Tensor, other: Tensor) -> bool:
    if nn.parameter.is_lazy(one) or one.is_meta:  # which is refused later, in its own words
        return True
    return one.shape == other.shape and torch.equal(one.detach().nan_to_num(), other.detach().nan_to_num())


def _made(name: str, make: Callable[..., Any], settings: Mapping[str, Any], seed: int) -> nn.Module:
    with _seeded(seed):
        try:
            module = make(**settings)
        except FedprivError:
            raise
        except Exception as error:
            raise OwnCodeError(
                f"the model {name!r} cannot be made: {failure(error)}; mend it, or its settings."
            ) from error
    if isinstance(module, type):
        raise InputError(f"the model {name!r} returns the class {module.__name__}; return a module made of it.")
    if not isinstance(module, nn.Module):
        raise InputError(f"the model {name!r} returns a {type(module).__name__}; return a torch.nn.Module.")
    return module


def _refuse_arguments(name: str, make: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    known = inspect.signature(make).parameters.values()
    takes = [one.name for one in known if one.kind in _KINDS]
    if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known):
        for key in settings:
            if key not in takes:
                raise InputError(f"the model {name!r}: {unknown('setting', key, takes)}")
    for one in known:
        if one.kind in _KINDS and one.default is inspect.Parameter.empty and one.name not in settings:
            raise InputError(f"the model {name!r} needs {one.name!r}; set model.{one.name}.")


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    python, numbers = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
