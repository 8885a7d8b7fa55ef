"""Few-shot tasks: a population to learn from, and people held out, whose classes (or who themselves) never took part.

What privacy protects is one task: one person with all her images. Which classes a task has is public; no image belongs
to two tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedpriv.data.dataset import Dataset
from fedpriv.errors import InputError
from fedpriv.randomness import generator
from fedpriv.settings import Settings

if TYPE_CHECKING:
    from fedpriv.cohort.tasks import Ragged, Tasks

__all__ = ["FewShot", "few_shot"]

Positions = NDArray[np.int64]

_TURNED_ALIKE = {"digits": ((6, 9),), "mnist": ((6, 9),)}
"""Classes that look alike when they are turned: knowing one is knowing the other."""

_CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SHAPES = "0Oo 1Iil 2NZz 3EMmWw 5Ss 69bdgpPqB8 7L CcnUu Jj Kk Tt Vv Xx Yyh ae"
_LOOK_ALIKE = {"femnist": tuple(tuple(_CHARACTERS.index(one) for one in shape) for shape in _SHAPES.split())}
"""Characters that look alike in another case, in handwriting, or when they are turned, by eye."""


class FewShot(Settings):
    """How few-shot tasks are made.

    Attributes
    ----------
    ways : int
        Classes of a task; they are called 0 to ``ways - 1`` within it.
    shots : int
        Examples of each class from which a held-out person learns.
    examples : int
        Examples of each class in a task; of a writer's, at most so many.
    by : {"classes", "writers"}
        Whether a task is made of images of nobody in particular, or of one natural id's.
    tasks : int or None
        Size of the population; None makes as many as there are.
    held_out : int
        How many people are held out.
    held_out_classes : int or None
        By classes: how many classes only held-out people have; None for half of all, 0 for none, so that they have
        other images only. By writers nothing is held out but the writers.
    turns : bool
        By classes: every image is turned by 0, 90, 180 or 270 degrees (public, at random), and what is turned
        differently is another class. Sets of ten classes are too few to learn to learn from. Whoever is held out, is so
        in all four directions; 6 and 9 of digits and MNIST are held out together or not at all.
    apart : bool
        By classes: characters that look alike, such as 0 and O or n and u, are held out together or not at all. Digits
        and MNIST need no word for it.
    seed : int
        Public.
    """

    ways: int = Field(default=5, ge=2)
    shots: int = Field(default=1, ge=1)
    examples: int = Field(default=20, ge=2)
    by: Literal["classes", "writers"] = "classes"
    tasks: int | None = Field(default=None, ge=1)
    held_out: int = Field(default=50, ge=1)
    held_out_classes: int | None = Field(default=None, ge=0)
    turns: bool = False
    apart: bool = False
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class _ChosenTask:
    """One task: per class, positions in the data set."""

    name: str
    classes: Sequence[Positions]


def few_shot(dataset: Dataset, settings: FewShot) -> tuple[Tasks, Tasks]:
    """Make the population and the people held out.

    In the population a class's examples are divided into a train part, which episodes draw from, and a test part of a
    quarter (none of a class that has hardly enough for an episode). Of a held-out person, the train part has exactly
    ``shots`` examples of each class and the test part the others.

    Raises
    ------
    InputError
        More shots than a class has, more ways than there are classes, or fewer examples or writers than asked for.
    """
    if settings.examples < settings.shots + 2:
        lower = f" or lower data.shots to {settings.examples - 2}" if settings.examples > 2 else ""
        raise InputError(
            f"few-shot: {settings.shots} shots of a class leave {max(settings.examples - settings.shots, 0)} of its "
            f"{settings.examples} examples, and 2 are needed (to learn by, and to score); raise data.examples to "
            f"{settings.shots + 2}{lower}."
        )
    if settings.turns and settings.by == "classes":
        dataset = _turned(dataset, settings.seed)
    make = _by_writers if settings.by == "writers" else _by_classes
    learning, new = make(dataset, settings)
    origin = f"{dataset.name}/{settings.ways}-way(by={settings.by},examples={settings.examples},seed={settings.seed})"
    return (
        _tasks(dataset, origin, learning, [_cut(task, settings.shots) for task in learning], settings.ways),
        _tasks(dataset, f"{origin}/held out", new, [settings.shots] * len(new), settings.ways),
    )


def _turned(dataset: Dataset, seed: int) -> Dataset:
    """Turn every image; class c turned by q quarters becomes class ``4 c + q``."""
    if dataset.inputs.ndim != 4 or dataset.inputs.shape[2] != dataset.inputs.shape[3]:
        raise InputError(
            f"few-shot: only square images can be turned, {dataset.name!r} has examples of shape "
            f"{dataset.inputs.shape[1:]}; leave out data.turns."
        )
    quarters = generator(seed, "data/few-shot/turns").integers(4, size=len(dataset))
    inputs = dataset.inputs.copy()
    for quarter in (1, 2, 3):
        inputs[quarters == quarter] = np.rot90(inputs[quarters == quarter], quarter, axes=(2, 3))
    return replace(dataset, inputs=inputs, targets=4 * dataset.targets + quarters, num_classes=4 * dataset.num_classes)


def _sides(dataset: Dataset, settings: FewShot) -> tuple[Positions, Positions]:
    """Return the classes to learn from and those of held-out people."""
    turned = settings.turns
    kinds = np.unique(dataset.targets // (4 if turned else 1))
    order = generator(settings.seed, "data/few-shot/classes").permutation(kinds)
    held = len(kinds) // 2 if settings.held_out_classes is None else settings.held_out_classes
    if not 0 <= held < len(kinds):
        raise InputError(
            f"few-shot: data.held_out_classes must be less than the {len(kinds)} classes of {dataset.name!r}, got "
            f"{held}."
        )
    order = _apart(order, held, _alike(dataset.name, settings)) if held else order
    mine, theirs = (order, order) if held == 0 else (order[held:], order[:held])
    if turned:
        mine, theirs = ((4 * side[:, None] + np.arange(4)).reshape(-1) for side in (mine, theirs))
    present = np.unique(dataset.targets)
    return mine[np.isin(mine, present)], theirs[np.isin(theirs, present)]


def _alike(name: str, settings: FewShot) -> tuple[tuple[int, ...], ...]:
    """Return groups of classes of which none may be on both sides."""
    if settings.apart and name not in (*_TURNED_ALIKE, *_LOOK_ALIKE):
        known = ", ".join(sorted((*_TURNED_ALIKE, *_LOOK_ALIKE)))
        raise InputError(
            f"few-shot: which classes of {name!r} look alike is not known (it is for {known}); leave out data.apart."
        )
    turned = _TURNED_ALIKE.get(name, ()) if settings.turns else ()
    return turned + (_LOOK_ALIKE.get(name, ()) if settings.apart else ())


def _apart(order: Positions, held: int, alike: Sequence[Sequence[int]]) -> Positions:
    """Put ``held`` classes first: whole groups that the order begins with, as far as they fit, then single classes."""
    present, chosen = set(order.tolist()), list[int]()
    grouped = {label for group in alike for label in group}
    for label in order[:held].tolist():
        for group in alike:
            own = [one for one in group if one in present]
            if label in own and label not in chosen and len(chosen) + len(own) <= held:
                chosen += own
    single = [label for label in order.tolist() if label not in grouped]
    chosen += single[: held - len(chosen)]
    if len(chosen) < held:
        raise InputError(
            f"few-shot: {held} classes cannot be held out without parting some that look alike; change "
            "data.held_out_classes."
        )
    return np.array(chosen + [label for label in order.tolist() if label not in chosen], dtype=np.int64)


def _by_classes(dataset: Dataset, settings: FewShot) -> tuple[list[_ChosenTask], list[_ChosenTask]]:
    present = np.unique(dataset.targets)
    mine, theirs = _sides(dataset, settings)
    for classes, who in ((mine, "to learn from"), (theirs, "held out")):
        if len(classes) < settings.ways:
            raise InputError(
                f"few-shot: {settings.ways} ways are more than the {len(classes)} classes of {dataset.name!r} {who} "
                f"(of {len(present)} in all); lower data.ways or change data.held_out_classes."
            )
    stock = {}
    for label in present.tolist():
        found = np.flatnonzero(dataset.targets == label).astype(np.int64)
        stock[label] = generator(settings.seed, "data/few-shot/order", label).permutation(found).tolist()
    new = _deal(dataset, settings, theirs, stock, settings.held_out, "held-out")
    learning = _deal(dataset, settings, mine, stock, settings.tasks, "task")
    return learning, new


def _deal(
    dataset: Dataset, settings: FewShot, classes: Positions, stock: dict[int, list[int]], count: int | None, kind: str
) -> list[_ChosenTask]:
    """Deal examples out to tasks, from the fullest classes (equal ones at random), so that none runs out early."""
    made: list[_ChosenTask] = []
    while count is None or len(made) < count:
        rng = generator(settings.seed, f"data/few-shot/{kind}", len(made))
        ranked = sorted(rng.permutation(classes).tolist(), key=lambda label: -(len(stock[label]) // settings.examples))
        chosen = rng.permutation(ranked[: settings.ways]).tolist()
        if min(len(stock[label]) for label in chosen) < settings.examples:
            break
        drawn = [np.array([stock[label].pop() for _ in range(settings.examples)], dtype=np.int64) for label in chosen]
        made.append(
            _ChosenTask(f"{dataset.name}/{settings.ways}-way(seed={settings.seed})/{kind}-{len(made):05d}", drawn)
        )
    if not made or (count is not None and len(made) < count):
        number = "data.held_out" if kind == "held-out" else "data.tasks"
        fewer = f" or {number} to {len(made)}" if made and count is not None else ""
        raise InputError(
            f"few-shot: {dataset.name!r} has examples for {len(made)} {kind} tasks of {settings.ways} classes with "
            f"{settings.examples} examples each, {count or 'at least 1'} are asked for; lower data.examples{fewer}."
        )
    return made


def _by_writers(dataset: Dataset, settings: FewShot) -> tuple[list[_ChosenTask], list[_ChosenTask]]:
    if dataset.natural_ids is None:
        raise InputError(f"few-shot: {dataset.name!r} has no writers; set data.by = 'classes', or use femnist.")
    if settings.held_out_classes is not None:
        raise InputError("few-shot: by writers, people are held out and not classes; leave out data.held_out_classes.")
    ids = np.asarray(dataset.natural_ids)
    made: list[_ChosenTask] = []
    for writer in np.unique(ids).tolist():
        rng = generator(settings.seed, f"data/few-shot/writer/{writer}")
        own = rng.permutation(np.flatnonzero(ids == writer)).astype(np.int64)
        groups = [own[dataset.targets[own] == label][: settings.examples] for label in np.unique(dataset.targets[own])]
        enough = [group for group in groups if len(group) > settings.shots]
        rng.shuffle(enough)
        chosen = sorted(enough, key=len, reverse=True)[: settings.ways]
        # One example must be left for the test part.
        if len(chosen) == settings.ways and max(len(group) for group in chosen) > settings.shots + 1:
            rng.shuffle(chosen)
            made.append(_ChosenTask(f"{dataset.name}/{dataset.natural_unit}-{writer}", chosen))
    order = generator(settings.seed, "data/few-shot/writers").permutation(len(made))
    new = [made[index] for index in sorted(order[: settings.held_out].tolist())]
    learning = [made[index] for index in sorted(order[settings.held_out :].tolist())]
    if settings.tasks is not None:
        learning = learning[: settings.tasks]
    if len(learning) < (settings.tasks or 1):
        raise InputError(
            f"few-shot: {len(made)} writers of {dataset.name!r} have {settings.ways} classes with more than "
            f"{settings.shots} examples, {settings.held_out} are held out and {settings.tasks or 'at least 1'} are "
            "asked to learn; lower data.ways, data.shots, data.held_out or data.tasks."
        )
    return learning, new


def _cut(task: _ChosenTask, shots: int) -> list[int]:
    """Return how many examples of each class go to the train part."""
    return [
        len(group) - max(min(len(group) // 4, len(group) - shots - 1), int(len(group) > shots + 1))
        for group in task.classes
    ]


def _tasks(dataset: Dataset, origin: str, made: list[_ChosenTask], cuts: Sequence[int | list[int]], ways: int) -> Tasks:
    from fedpriv.cohort.tasks import Tasks

    first, second = [], []
    for task, cut in zip(made, cuts, strict=True):
        lengths = [cut] * ways if isinstance(cut, int) else cut
        first.append([group[:length] for group, length in zip(task.classes, lengths, strict=True)])
        second.append([group[length:] for group, length in zip(task.classes, lengths, strict=True)])
    nothing = [[np.empty(0, dtype=np.int64)] * ways for _ in made]
    return Tasks(
        dataset=origin,
        names=tuple(task.name for task in made),
        train=_gather(dataset, first),
        validation=_gather(dataset, nothing),
        test=_gather(dataset, second),
        num_classes=ways,
        declared=dataset.source.declared,
        kinds=np.array([[dataset.targets[group[0]] for group in task.classes] for task in made], dtype=np.int64),
    )


def _gather(dataset: Dataset, tasks: Sequence[Sequence[Positions]]) -> Ragged:
    from fedpriv.cohort.tasks import Ragged

    flat = np.concatenate([group for task in tasks for group in task])
    labels = np.concatenate([np.full(len(group), name) for task in tasks for name, group in enumerate(task)])
    sizes = [sum(len(group) for group in task) for task in tasks]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return Ragged(dataset.inputs[flat], labels.astype(np.int64), offsets)
