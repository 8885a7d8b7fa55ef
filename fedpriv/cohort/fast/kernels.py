"""Hand-batched kernels for fully connected networks: the fastest engine where it applies."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedpriv.cohort.cohort import Batch, Cohort
from fedpriv.cohort.descent import Descent
from fedpriv.cohort.engine import Engine, LoopEngine, VmapEngine, average, mean_losses, why_not_vmap
from fedpriv.cohort.fast.chain import Chain, Layer, forward, layers_of, views_of
from fedpriv.cohort.fast.low_rank import low_rank_meta_gradient, shared
from fedpriv.cohort.fast.span import Examples, bytes_in_span, descend_in_span, span_widths
from fedpriv.cohort.fast.tiles import Tiles
from fedpriv.cohort.inner_loop import InnerLoop
from fedpriv.cohort.problem import Problem
from fedpriv.cohort.trees import Params

__all__ = ["KernelEngine"]


class KernelEngine(VmapEngine):
    """Hand-batched kernels for chains of Flatten, Linear and ReLU; vmap for other models, the loop where vmap fails.

    Attributes
    ----------
    obstacle : str or None
        What stopped vmap, once a model was computed by the loop.
    """

    name = "auto"

    def __init__(self) -> None:
        # Walking over a model costs as much as a step of a small tile; a node has one model.
        self._known: tuple[nn.Module, int, list[Layer] | None] | None = None
        self._other: tuple[nn.Module, torch.Size, Engine] | None = None
        self.obstacle: str | None = None
        self.tiles = Tiles()
        self._examples: Examples | None = None

    @property
    def loops(self) -> bool:  # noqa: D102
        return self.obstacle is not None

    def may_loop(self, problem: Problem, axes: int) -> bool:  # noqa: D102
        return self._layers(problem, axes) is None

    def _layers(self, problem: Problem, axes: int) -> list[Layer] | None:
        model = problem.model
        if self._known is None or self._known[0] is not model or self._known[1] != axes:
            self._known = (model, axes, layers_of(model, axes))
        return self._known[2]

    def _general(self, problem: Problem, batch: Batch) -> Engine:
        """Return what computes a model that is no chain: the model and the shape of examples decide, no value."""
        shape = batch.inputs.shape[2:]
        if self._other is None or self._other[0] is not problem.model or self._other[1] != shape:
            self.obstacle = why_not_vmap(problem, batch)
            self._other = (problem.model, shape, VmapEngine() if self.obstacle is None else LoopEngine())
        return self._other[2]

    def gradients(self, problem: Problem, params: Params, batch: Batch) -> Params:  # noqa: D102
        return self._general(problem, batch).gradients(problem, params, batch)

    def sgd(  # noqa: D102
        self, problem: Problem, start: Params, cohort: Cohort, index: NDArray[np.int64], descent: Descent
    ) -> Params:
        layers = self._layers(problem, 2 + len(cohort.tasks.input_shape))
        if layers is None:
            return super().sgd(problem, start, cohort, index, descent)
        start = {name: value.detach() for name, value in start.items()}
        params = {name: torch.empty(value.shape, dtype=value.dtype) for name, value in start.items()}
        weight = params[layers[0].weight]
        widths = span_widths(index, cohort.sizes("train"), weight.shape[2], weight.shape[1])
        if descent.momentum or _pulled_in_part(layers[0], descent):
            widths[:] = 0
        everybody, each = np.arange(len(cohort)), sum(value[:1].nbytes for value in params.values())
        edges = np.flatnonzero(np.diff(widths, prepend=-1, append=-1)).tolist()
        for first, last in itertools.pairwise(edges):
            width = int(widths[first])
            size = bytes_in_span(width, weight) if width else each
            # All steps of a few tasks, whose weights stay in the cache meanwhile, before the next few.
            for cut in self.tiles.cut(last - first, size, index.shape[1] * index.shape[2]):
                here = slice(first + cut.start, first + cut.stop)
                some, settings = cohort.subset(everybody[here]), descent.part(here, params)
                begin, tile = ({name: value[here] for name, value in tree.items()} for tree in (start, params))
                if width:
                    examples = self._known_examples(cohort, layers[0])
                    descend_in_span(problem, layers, examples, some, index[here], width, begin, tile, settings)
                    continue
                for name, value in tile.items():
                    value.copy_(begin[name])
                self.descend(problem, tile, some.batches(index[here]), settings)
        return params

    def _known_examples(self, cohort: Cohort, layer: Layer) -> Examples:
        """Return the examples of the tasks, of which a node has one set; those of others are forgotten."""
        data, dtype, bias = cohort.tasks.train, cohort.dtype, layer.bias is not None
        known = self._examples
        if known is None or known.data is not data or (known.dtype, known.bias) != (dtype, bias):
            known = self._examples = Examples(data, dtype, bias=bias)
        return known

    def descend(self, problem: Problem, params: Params, batches: Iterable[Batch], descent: Descent) -> None:  # noqa: D102
        chain: Chain | None = None
        batches = iter(batches)
        for batch in batches:
            if chain is None:
                layers = self._layers(problem, batch.inputs.dim())
                if layers is None:
                    super().descend(problem, params, itertools.chain([batch], batches), descent)
                    return
                chain = Chain(layers, problem, params, descent, batch)
            chain.step(batch)

    def losses(self, problem: Problem, params: Params, batch: Batch) -> Tensor:  # noqa: D102
        layers = self._layers(problem, batch.inputs.dim())
        if layers is None:
            return self._general(problem, batch).losses(problem, params, batch)
        return mean_losses(problem, forward(views_of(layers, params), batch.inputs)[-1], batch)

    def meta_shortcut(  # noqa: D102
        self,
        problem: Problem,
        params: Params,
        support: Batch,
        query: Batch,
        inner: InnerLoop,
        *,
        create_graph: bool,
    ) -> tuple[Params, Tensor] | None:
        layers = self._layers(problem, query.inputs.dim())
        if layers is None or not shared(params):
            return None
        return low_rank_meta_gradient(layers, problem, params, support, query, inner, create_graph=create_graph)

    def scores(self, problem: Problem, params: Params, batch: Batch) -> tuple[Tensor, Tensor]:  # noqa: D102
        layers = self._layers(problem, batch.inputs.dim())
        if layers is None:
            return self._general(problem, batch).scores(problem, params, batch)
        with torch.no_grad():
            outputs = forward(views_of(layers, params), batch.inputs)[-1]
            loss, correct = problem.judge(outputs.flatten(0, 1), batch.targets.flatten(0, 1))
        shape = batch.mask.shape
        return average(loss.view(shape), batch.mask), average(correct.view(shape), batch.mask)


def _pulled_in_part(layer: Layer, descent: Descent) -> bool:
    """Tell whether only one of weight and bias is pulled towards an anchor."""
    anchor = descent.anchor
    return anchor is not None and len({name in anchor for name in layer.names}) > 1
