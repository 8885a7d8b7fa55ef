"""What a model is worth to people who come later: held-out tasks, adapted from several starts.

Diagnostics of the experimenter. Held-out people send nothing, so the guarantee of the billboard does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedpriv.cohort import (
    ClientAlgorithm,
    Cohort,
    Key,
    Learner,
    Params,
    Problem,
    Purpose,
    Ragged,
    Sharing,
    Tasks,
    engine_named,
    only,
    usable,
)
from fedpriv.progress import phase
from fedpriv.statistics import contrast, interval

__all__ = ["HeldOutPeople", "pretrained", "score_held_out", "score_start"]

_RATES = (0.03, 0.1, 0.3, 1.0, 3.0)
"""References adapt at the client's own rate, and at the one of these multiples that is best on the held-out people
themselves: that favours them."""
_BATCH, _RATE, _MOMENTUM, _EPOCHS = 32, 0.05, 0.9, 100


@dataclass(frozen=True)
class HeldOutPeople:
    """People held out, and the run that they are compared with."""

    people: Tasks | None  # who took no part
    population: Tasks | None  # who did: the pre-trained reference learns from their pooled examples
    client: ClientAlgorithm  # how somebody adapts
    engine: str  # how the task axis is computed
    seed: int  # of the run
    references: bool  # whether people are also scored from other starts
    # From a number of outputs (or None) to the model with so many; None for a model that cannot be rebuilt.
    rebuild: Callable[[int | None], Problem] | None


def score_held_out(
    run: HeldOutPeople, problem: Problem, billboard: dict[str, NDArray[Any]], work: int
) -> dict[str, Any]:
    """Score the last billboard on held-out people, beside two references with the same adaptation steps.

    ``scratch`` starts from the public initial model. ``pretrained`` is a plain network that was trained on the pooled
    examples of the population without any privacy, with the data set's own classes where tasks say which they are
    (``Tasks.kinds``); its last layer starts from zero.

    Parameters
    ----------
    run : HeldOutPeople
        The people, and the run.
    problem : Problem
        Model and loss.
    billboard : dict
        The last billboard.
    work : int
        Gradient evaluations of the run: the pre-trained network gets as many, at most 100 passes over the pool.

    Returns
    -------
    dict
        Per start (only the billboard without ``run.references``) mean accuracy (the negative loss in regression) and
        half the width of its 95% interval over people; for references also by how much the billboard is better, person
        by person, and the same with the rate that is best for the reference (``best``).
    """
    if run.people is None:
        return {}
    people = only(run.people, usable(run.people, problem.dtype).scores)
    if not len(people):
        return {}
    learner = Learner(problem, engine_named(run.engine))
    start = {name: torch.from_numpy(np.array(value)) for name, value in billboard.items()}
    with phase("scores of held-out people"):
        own = score_start(run.client, learner, start, people)
    found: dict[str, Any] = {"people": len(people), "billboard": _measured(own)}
    if not run.references:
        return found
    with phase("pre-trained reference"):
        references = {"scratch": problem.initial(), "pretrained": pretrained(run, problem, work)}
    for name, reference in references.items():
        if reference is None:
            continue
        with phase(f"scores of held-out people, {name}"):
            rate, best = _best(run.client, learner, reference, people)
            same = score_start(run.client, learner, reference, people)
        found[name] = _compared(own, same) | {"best": _compared(own, best) | {"rate": rate}}
    return found


def score_start(client: ClientAlgorithm, learner: Learner, start: Params, people: Tasks) -> NDArray[np.float64]:
    """Return the accuracy (negative loss in regression) of each person who begins from ``start``, float64 [m]."""
    found = []
    for positions in np.array_split(np.arange(len(people)), max(1, len(people) // 32)):
        cohort = Cohort(people, positions, learner.problem.dtype)
        try:
            found.append(_scores(client, learner, start, cohort))
        except Exception:  # nobody may learn whose data caused it, and the run goes on
            found += [_scores_or_nan(client, learner, start, cohort.one(place)) for place in range(len(cohort))]
    return torch.cat(found).double().nan_to_num(0.0 if people.num_classes else -float("inf")).numpy()


def _scores(client: ClientAlgorithm, learner: Learner, start: Params, cohort: Cohort) -> Tensor:
    sharing = Sharing.of(client, learner.problem)
    start = {name: start[name] for name in sharing.billboard}  # of a reference, too: the rest begins as in the run
    state = sharing.first_state(client, start, cohort)
    state = client.finish(learner, start, state, cohort, Key(0, 0, Purpose.FINISH))
    scores = client.evaluate(learner, start, state, cohort)
    return -scores.loss if cohort.tasks.num_classes is None else scores.accuracy


def _scores_or_nan(client: ClientAlgorithm, learner: Learner, start: Params, cohort: Cohort) -> Tensor:
    try:
        return _scores(client, learner, start, cohort)
    except Exception:
        return torch.full((len(cohort),), torch.nan)


def pretrained(run: HeldOutPeople, problem: Problem, work: int) -> Params | None:
    """Train a plain network on the pooled examples of the population; None if that cannot be."""
    if run.population is None:
        return None
    tasks = only(run.population, usable(run.population, problem.dtype).trains)
    targets = tasks.train.targets
    outputs = tasks.num_classes
    if outputs is None:
        network, head = problem, set[str]()
    else:
        owner = np.repeat(np.arange(len(tasks)), tasks.train.sizes)
        if tasks.kinds is not None:
            known, targets = np.unique(tasks.kinds[owner, targets], return_inverse=True)
            outputs = len(known)
        if run.rebuild is None:
            return None
        network, wider = run.rebuild(outputs), run.rebuild(outputs + 1).initial()
        head = {name for name, value in network.initial().items() if value.shape != wider[name].shape}
        if tasks.kinds is None:  # the classes mean the same to everybody, so the last layer is of use as it is
            head = set()
    whole = Ragged(tasks.train.inputs, targets, np.array([0, len(targets)], dtype=np.int64))
    pool = Tasks("pool", ("pool",), whole, whole, whole, outputs, tasks.declared)
    epochs = int(np.clip(work // max(len(targets), 1), 1, _EPOCHS))
    start = {name: value.unsqueeze(0) for name, value in network.initial().items()}
    trained = Learner(network, engine_named(run.engine)).sgd(
        start,
        Cohort(pool, np.arange(1), network.dtype),
        Key(run.seed, 0, Purpose.MODEL),
        learning_rate=_RATE,
        batch_size=_BATCH,
        epochs=epochs,
        momentum=_MOMENTUM,
    )
    public = problem.initial()
    return {name: torch.zeros_like(value) if name in head else trained[name][0] for name, value in public.items()}


def _best(
    client: ClientAlgorithm, learner: Learner, start: Params, people: Tasks
) -> tuple[float | None, NDArray[np.float64]]:
    """Return the rate of adaptation that is best for these very people, and their scores."""
    if "learning_rate" not in type(client).model_fields:
        return None, score_start(client, learner, start, people)
    base: float = client.learning_rate  # type: ignore[attr-defined]
    tried: Iterable[float] = (base * factor for factor in _RATES)
    scored = [
        (rate, score_start(client.model_copy(update={"learning_rate": rate}), learner, start, people)) for rate in tried
    ]
    return max(scored, key=lambda pair: float(pair[1].mean()))


def _compared(own: NDArray[np.float64], scores: NDArray[np.float64]) -> dict[str, Any]:
    if len(own) < 2:
        return _measured(scores)
    gain = contrast(own.tolist(), scores.tolist()).interval
    half = None if gain.half is None else round(gain.half, 4)
    return _measured(scores) | {"gain": round(gain.mean, 4), "gain_half": half}


def _measured(scores: NDArray[np.float64]) -> dict[str, float | None]:
    found = interval(scores.tolist())
    return {"accuracy": round(found.mean, 4), "half": None if found.half is None else round(found.half, 4)}
