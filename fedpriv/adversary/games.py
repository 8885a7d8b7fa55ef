"""Membership games on rows that a server saw: whether an image was in the support set, in the query set, or nowhere.

By the paper's rule a non-member comes from the whole data distribution, so a part of the success is telling classes
apart. The controlled rule takes it from the same task and class as the slot that it is tried in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from fedpriv.adversary.cores import side_by_side
from fedpriv.adversary.first_layer import class_counts
from fedpriv.adversary.inversion import Inversion
from fedpriv.adversary.matching import query_match, refuse_unusable, support_match
from fedpriv.adversary.observed_rows import ObservedRows, non_members
from fedpriv.adversary.outcome import Outcome, judge
from fedpriv.cohort import Batch, Cohort, Engine, Problem
from fedpriv.cohort.fast.products import ProductEngine
from fedpriv.cohort.fast.threads import one_torch_thread
from fedpriv.errors import InputError
from fedpriv.randomness import generator as generator_for

__all__ = ["RULES", "SETS", "GameResults", "Games", "SetName", "similarity"]

SetName = Literal["query", "support"]
SETS: tuple[SetName, ...] = ("query", "support")
RULES = ("paper", "controlled")
_MAX_REFERENCES = 8
_KINDS = ("members", "paper", "controlled")
_SHOWN_IMAGES = 6


@dataclass(frozen=True)
class GameResults:
    """Games against one set in one round.

    Attributes
    ----------
    scores : dict
        By attack ("inversion", "score") and side ("members", "paper", "controlled"), float64 [n]; higher means member.
    outcomes : dict
        By attack and rule.
    shown : dict
        By side, and "from noise" (full reconstruction), a few triples: where the slot began, what it came to, and an
        image of the same class that is really there; float32 [k, 3, H, W], the first channel.
    references : int
        References that standardise the cheap score; below 2 it stays as it is.
    """

    scores: dict[str, dict[str, NDArray[np.float64]]]
    outcomes: dict[str, dict[str, Outcome]]
    shown: dict[str, NDArray[np.float32]]
    references: int

    def to_json(self) -> dict[str, Any]:
        """Return the outcomes; the paper's game by inversion is the headline."""
        first = self.outcomes["inversion"]["paper"]
        return {
            "accuracy": first.accuracy.value,
            "observer": "server",
            "output": "rows of updates",
            "references": self.references,
            **{attack: {rule: one.to_json() for rule, one in found.items()} for attack, found in self.outcomes.items()},
        }


class Games(Inversion):
    """How membership games are played; the other settings are those of :class:`Inversion`.

    Attributes
    ----------
    games : int
        Games of each side that count.
    validation : int
        Further games of each side, which choose the threshold.
    start : {"mean", "noise"}
        What slots without a target begin with: the mean image of the population with a little noise (the server
        knows what such images look like), or noise alone.
    labels : {"known", "counted"}
        Whether the server is told the labels of the query set, or counts them in the gradient of the last bias.
    together : int
        Games that are computed at a time.
    """

    games: int = Field(default=100, ge=2)
    validation: int = Field(default=40, ge=1)
    start: Literal["mean", "noise"] = "mean"
    labels: Literal["known", "counted"] = "known"
    together: int = Field(default=32, ge=1)

    def play(
        self,
        seen: ObservedRows,
        which: SetName,
        cohort: Cohort,
        *,
        seed: int = 0,
        engine: Engine | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> GameResults:
        """Play one game of each kind on every row, as many rows as are asked for.

        Parameters
        ----------
        seen : ObservedRows
            Rows and truth.
        which : {"query", "support"}
            Which set members come from.
        cohort : Cohort
            Any cohort of the population.
        seed : int
            Of slots, non-members and starts.
        progress : callable or None
            Told how many batches of games are done, and of how many.

        Raises
        ------
        InputError
            Inputs are no images, rows are missing or unusable, or a class has no image left for the controlled game.
        """
        rng = generator_for(seed, f"attacks/{which}")
        seen = self._enough(seen, rng)
        refuse_unusable(seen.gradient)
        engine = engine or ProductEngine()
        target = seen.query if which == "query" else seen.support
        _refuse_no_images(target.inputs)
        slots = torch.from_numpy(rng.integers(target.mask.shape[1], size=len(seen)))
        everyone = torch.arange(len(seen))
        found = non_members(seen, cohort, target, slots, rng)
        candidates = {
            "members": target.inputs[everyone, slots],
            "paper": torch.from_numpy(found.anywhere),
            "controlled": torch.from_numpy(np.stack([images[0] for images in found.alike])),
        }
        labels = self._labels(seen, which, target, cohort)
        average = torch.from_numpy(cohort.tasks.train.inputs[:2000].mean(axis=0)).to(seen.problem.dtype)
        noise = torch.from_numpy(rng.random(target.inputs.shape)).to(seen.problem.dtype)
        begin = noise * (self.high - self.low) + self.low if self.start == "noise" else average + 0.05 * noise
        wanted = target.targets[everyone, slots]
        width = min(_MAX_REFERENCES, min(len(images) for images in found.alike) - 1)
        references = torch.from_numpy(np.stack([images[1 : 1 + width] for images in found.alike]))
        scores: dict[str, dict[str, NDArray[np.float64]]] = {"inversion": {}, "score": {}}
        shown: dict[str, NDArray[np.float32]] = {}
        places = _Slots.of(begin, labels, wanted)
        parts = _cut(len(seen), self.together)
        units = [(side, here) for side in _KINDS for here in parts]

        def play(engine: Engine, problem: Problem, unit: tuple[str, slice]) -> tuple[Tensor, Tensor]:
            side, here = unit
            images = candidates[side][here].to(problem.dtype)
            rows, own = replace(seen.part(here), problem=problem), places.part(here)
            cheap = self._cheap(engine, rows, which, images, own, references[here])
            return self._invert(engine, rows, which, images, own), cheap

        with one_torch_thread():
            played = iter(side_by_side(play, units, engine, seen.problem, progress or (lambda _done, _total: None)))
            for side in _KINDS:
                results, cheap = zip(*(next(played) for _ in parts), strict=True)
                images, result = candidates[side].to(seen.problem.dtype), torch.cat(results)
                scores["inversion"][side] = similarity(images, result, self.high - self.low)
                scores["score"][side] = torch.cat(cheap).double().numpy()
                shown[side] = _beside(images, result, candidates["members"])
            few = seen.part(slice(0, _SHOWN_IMAGES))
            blind = replace(
                places.part(slice(0, _SHOWN_IMAGES)), start=noise[:_SHOWN_IMAGES] * (self.high - self.low) + self.low
            )
            bare = blind.taken(blind.start)
            shown["from noise"] = _beside(bare, self._invert(engine, few, which, bare, blind), candidates["members"])
        outcomes = {
            attack: {rule: judge(sides["members"], sides[rule], self.validation, seed) for rule in RULES}
            for attack, sides in scores.items()
        }
        return GameResults(scores, outcomes, shown, width)

    def _enough(self, seen: ObservedRows, rng: np.random.Generator) -> ObservedRows:
        count = self.games + self.validation
        if len(seen) < count:
            raise InputError(
                f"{self.games} games and {self.validation} for the threshold need {count} rows, and {len(seen)} were "
                "seen in this round; lower attack.games or attack.validation, or let more tasks take part."
            )
        return seen.part(rng.permutation(len(seen))[:count])

    def _labels(self, seen: ObservedRows, which: SetName, target: Batch, cohort: Cohort) -> Tensor:
        """Return what the server holds for the labels of the slots, int64 [G, n]."""
        if which == "support" or self.labels == "known":
            return target.targets
        kinds = cohort.tasks.num_classes or 0
        biases = [name for name, value in seen.gradient.items() if value.shape[1:] == (kinds,)]
        if not biases:
            raise InputError(
                "labels are counted in the gradient of the last layer's bias, and the model has none; set "
                "attack.labels = 'known'."
            )
        sample = torch.from_numpy(cohort.tasks.train.inputs[:500]).to(seen.problem.dtype)
        shares = torch.softmax(seen.problem.predict(seen.billboard, sample), dim=1).mean(dim=0)
        counts = class_counts(seen.gradient[biases[-1]], shares, target.mask.shape[1])
        return torch.stack([torch.repeat_interleave(torch.arange(kinds), row) for row in counts])

    def _invert(self, engine: Engine, seen: ObservedRows, which: SetName, images: Tensor, slots: _Slots) -> Tensor:
        """Return what the candidates' slots came to."""
        known = (engine, seen.problem, seen.billboard, seen.gradient, slots.labels)
        match = query_match(*known) if which == "query" else support_match(*known, seen.query, seen.inner)
        found, _ = self.run(match, slots.filled(images))
        return slots.taken(found)

    def _cheap(
        self, engine: Engine, seen: ObservedRows, which: SetName, images: Tensor, slots: _Slots, references: Tensor
    ) -> Tensor:
        """Return the cosine that candidates reach, against the query set alone, against the support set in its slot.

        A lone support example would move the task n times as far, so the other slots are guessed.
        """
        known = (engine, seen.problem, seen.billboard, seen.gradient)
        if which == "query":
            alone = query_match(*known, slots.taken(slots.labels).unsqueeze(1))
        else:
            within = support_match(*known, slots.labels, seen.query, seen.inner)

        def score(candidates: Tensor) -> Tensor:
            found = alone(candidates.unsqueeze(1)) if which == "query" else within(slots.filled(candidates))
            return found.detach()

        own = score(images)
        them = [score(references[:, one].to(images)) for one in range(references.shape[1])]
        if len(them) < 2:
            return own
        rest = torch.stack(them, dim=1)  # in standard deviations above them
        return (own - rest.mean(dim=1)) / rest.std(dim=1).clamp_min(torch.finfo(own.dtype).eps)


@dataclass(frozen=True)
class _Slots:
    """Guesses [G, n, ...] of which one slot of each game takes a candidate."""

    start: Tensor
    labels: Tensor
    place: Tensor

    @classmethod
    def of(cls, start: Tensor, labels: Tensor, wanted: Tensor) -> _Slots:
        """Give the candidate of class ``wanted`` a slot of its class; if that was not counted, the first one."""
        place = (labels == wanted.unsqueeze(1)).to(torch.int64).argmax(dim=1)
        labels = labels.scatter(1, place.unsqueeze(1), wanted.unsqueeze(1))
        return cls(start, labels, place)

    def part(self, which: slice) -> _Slots:
        return _Slots(self.start[which], self.labels[which], self.place[which])

    def filled(self, images: Tensor) -> Tensor:
        start = self.start.clone()
        start[torch.arange(len(start)), self.place] = images
        return start

    def taken(self, values: Tensor) -> Tensor:
        return values[torch.arange(len(values)), self.place]


def similarity(left: Tensor, right: Tensor, span: float) -> NDArray[np.float64]:
    """Return the structural similarity of pairs of images [G, c, H, W], float64 [G].

    The window is the usual one of 11 pixels, or the largest odd one that fits.
    """
    from pytorch_msssim import ssim

    smallest = min(left.shape[-2:])
    window = min(11, smallest - 1 + smallest % 2)
    found = ssim(left.float(), right.float(), data_range=span, size_average=False, win_size=window)
    return np.asarray(found.double().numpy())


def _beside(before: Tensor, after: Tensor, truth: Tensor) -> NDArray[np.float32]:
    count = min(_SHOWN_IMAGES, len(before))
    parts = [value[:count, 0].float() for value in (before, after, truth)]
    found: NDArray[np.float32] = torch.stack(parts, dim=1).numpy()
    return found


def _cut(count: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def _refuse_no_images(inputs: Tensor) -> None:
    if inputs.dim() != 5 or min(inputs.shape[-2:]) < 7:
        raise InputError(
            "membership is decided by the similarity of images [channels, height, width] of 7 pixels or more, got "
            f"inputs of shape {tuple(inputs.shape[2:])}; use a data set of images."
        )
