"""The personal models of a run by the names of its tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedpriv.cohort import Params, Tasks
from fedpriv.errors import InputError
from fedpriv.names import nearest
from fedpriv.personal.outline import NOT_PROTECTED, Block, Outline, Source
from fedpriv.personal.questions import answer, as_inputs

__all__ = ["Personal", "UnknownTask", "no_task"]


class UnknownTask(InputError, KeyError):
    """A task that is not in a run."""

    __str__ = InputError.__str__


def no_task(name: str, outline: Outline, look: str) -> UnknownTask:
    """Return what to raise where a run has no such task; ``look`` says where its names are.

    Of protected data no name is suggested: it would be another person's.
    """
    searched = isinstance(name, str) and outline.roster.declared == "benchmark" and len(outline.places) <= 10_000
    close = nearest(name, outline.places) if searched else None
    hint = f"did you mean {close!r}? " if close else ""
    return UnknownTask(f"there is no task {name!r} among the {len(outline.places):,} of this run; {hint}{look}.")


class Personal(Mapping[str, nn.Module]):
    """The models that the tasks of a run use for themselves, by name: made when they are asked for, never published.

    A model is a copy of the run's own module with the task's parameters, in evaluation mode, with the last local fit:
    what the run scored as "personal". A task whose values cannot be computed with has no model of its own, and the
    billboard in its place.

    Parameters
    ----------
    outline : Outline
        What all models have in common.
    source : Source
        Where their parameters come from.
    """

    def __init__(self, outline: Outline, source: Source) -> None:
        self.outline, self.source = outline, source

    def __len__(self) -> int:
        return len(self.outline.roster)

    def __iter__(self) -> Iterator[str]:
        return iter(self.outline.roster.names)

    def __contains__(self, name: object) -> bool:
        return name in self.outline.places

    def __getitem__(self, name: str) -> nn.Module:
        place = self._place(name)
        _, params, _ = next(iter(self.source.blocks(np.array([place]))))
        return self._module({key: value[0] for key, value in params.items()})

    def __repr__(self) -> str:
        kind = type(self.outline.problem.model).__name__
        return f"Personal(models of {len(self):,} tasks, {kind}, client {self.outline.client!r}; not released)"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: how many there are and what protects them; no name and no number of a task."""
        kind = type(self.outline.problem.model).__name__
        return (
            f"<div><p>Personal models of {len(self):,} tasks: {escape(kind)}, client "
            f"<code>{escape(self.outline.client)}</code>; <code>personal[name]</code> is a module.</p>"
            f"<p>{escape(NOT_PROTECTED)}</p></div>"
        )

    def predict(self, name: str, examples: Any, *, probabilities: bool = False) -> NDArray[Any]:
        """Return what one task's model predicts.

        Parameters
        ----------
        name : str
            The task.
        examples : array_like, shape [n, ...]
            In the units and the order of columns of the task's own examples.
        probabilities : bool
            For classes: the probability of each one, float [n, K], in place of the id of the most probable, int64 [n].

        Returns
        -------
        ndarray
            Classes or probabilities; for values, floats of shape [n] or [n, ...] as the targets have it.

        Raises
        ------
        InputError
            There is no such task, or the examples are not of the kind of its own.
        """
        roster, problem = self.outline.roster, self.outline.problem
        inputs = as_inputs(examples, roster, problem.dtype)
        return answer(self[name], problem, inputs, roster.target_shape, probabilities=probabilities)

    @property
    def compact(self) -> bool:
        """Whether the models have a compact form, too: low-rank plus sparse, with one billboard."""
        from fedpriv.personal.compact import has_compact_form

        return has_compact_form(self.source)

    def adapted(self, people: Tasks) -> Personal:
        """Return the models of people who come later: the last fit, from the last billboard and their own data.

        Nothing is sent or released, so it costs no privacy: the models of people held out are scored in the same way.

        Parameters
        ----------
        people : Tasks
            Tasks of the same kind. They may have any names.

        Raises
        ------
        InputError
            Their examples are of another kind, there is a billboard for each of several groups, or these are models out
            of a folder, which says nothing of how they were fitted.
        """
        from fedpriv.personal.nodes import newcomers

        source = newcomers(self.source, people, self.outline.roster)
        return Personal(replace(self.outline, roster=people.roster), source)

    def blocks(self) -> Iterator[Block]:
        """Yield all models, stacked, some at a time and in any order: ids [C], parameters [C, ...], who has one [C]."""
        return self.source.blocks(np.arange(len(self), dtype=np.int64))

    def save(self, out: Path | str, *, dtype: str = "float32") -> None:
        """Write all models into a private folder, or, where the client has one, into a compact file.

        Parameters
        ----------
        out : path
            A folder, which :func:`fedpriv.open_models` reads. A name that ends in ``.safetensors`` is a compact file
            (:class:`fedpriv.lrs.store.PersonalModels`): low-rank-plus-sparse models only.
        dtype : {"float32", "float64"}
            Of a task's numbers in a compact file. A folder keeps the models as they are.

        Raises
        ------
        InputError
            The folder holds other files or cannot be written, or there is no compact form.
        """
        if Path(out).suffix == ".safetensors":
            from fedpriv.personal.compact import compact

            compact(self.outline, self.source).save(Path(out), dtype=dtype)
            return
        from fedpriv.personal.folder import write_folder

        write_folder(Path(out), self.outline, self.source)

    def save_onnx(self, out: Path | str, *names: str) -> None:
        """Write some tasks' models as ONNX graphs, one file each, into a private folder.

        Parameters
        ----------
        out : path
            A folder; with one name also the path of a file that ends in ``.onnx``.
        names : str
            The tasks; all of them if none is named, of at most 100.

        Raises
        ------
        InputError
            ONNX is not installed, there are too many tasks, or the model cannot be written as a graph.
        """
        from fedpriv.personal.onnx import write_onnx

        write_onnx(Path(out), self.outline, self, names)

    def _place(self, name: str) -> int:
        place = self.outline.places.get(name)
        if place is None:
            raise no_task(name, self.outline, "see list(personal)")
        return place

    def _module(self, params: Params) -> nn.Module:
        model = deepcopy(self.outline.problem.model)
        named = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in params.items():
                named[name].copy_(value)
        for value in named.values():
            value.grad = None
        return model.eval()
