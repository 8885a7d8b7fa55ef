"""What the server declares about the mechanism of an exchange: one value, in every request.

The server derives from it the release that it charges, as it was sampled; a node derives the release that its policy
counts, which no sampling amplifies, because a node knows when it takes part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from fedpriv.privacy.banded import BandedMechanism
from fedpriv.privacy.bounds import WHOLE, Bounds
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.metrics import metrics_release
from fedpriv.privacy.sampling import MIN_SEPARATION, FullParticipation, Sampling, fixed_size

__all__ = ["Declaration"]


@dataclass(frozen=True)
class Declaration:
    """The mechanism of one exchange.

    Attributes
    ----------
    clipping_norm, noise_multiplier : float
        Bound of what a task sends, and the noise in units of it.
    fixed_size : bool
        Whether cohorts have a fixed size, for which add/remove does not hold.
    noise_at : {"server", "node"}
        Who adds the noise: with "node" every task's row gets its own before it leaves.
    banded : BandedMechanism or None
        Where noise is correlated over rounds, or participation is limited; None if the noise is drawn for this round
        alone.
    clipping_norms : mapping
        Norms of groups of arrays, where there are any; ``clipping_norm`` is then what they come to together.
    target_quantile : float or None
        Given where nodes also send, for each task, how far the bit "its update was within the norm" lies from it.
    metrics : tuple of str
        Which scores tasks contribute to published means; norm and noise are then theirs.
    largest_loss : float
        Losses above this contribute this.
    """

    clipping_norm: float = 1.0
    noise_multiplier: float = 0.0
    fixed_size: bool = False
    noise_at: Literal["server", "node"] = "server"
    banded: BandedMechanism | None = None
    clipping_norms: Mapping[str, float] = field(default_factory=dict)
    target_quantile: float | None = None
    metrics: tuple[str, ...] = ()
    largest_loss: float = 1.0

    @classmethod
    def of(cls, bounds: Bounds, noise_multiplier: float, **values: Any) -> Declaration:
        """Return the declaration of updates with these bounds."""
        norms = {} if WHOLE in bounds.norms else bounds.norms
        return cls(bounds.norm, noise_multiplier, clipping_norms=norms, target_quantile=bounds.quantile, **values)

    @property
    def bounds(self) -> Bounds:
        """What bounds a task's update."""
        return Bounds(self.clipping_norms or {WHOLE: self.clipping_norm}, self.target_quantile)

    def sampled(self, sampling: Sampling, noise_multiplier: float | None = None) -> Release:
        """Return the release that the server charges for the updates of tasks that this sampling chose.

        Parameters
        ----------
        sampling : Sampling
            How the tasks were chosen; of no effect under limits of participation.
        noise_multiplier : float or None
            That of a public group whose noise is its own; the declared one unless given.
        """
        noise = self.noise_multiplier if noise_multiplier is None else noise_multiplier
        norm = self.bounds.norm
        if self.banded is not None:
            return Release(
                mechanism="banded",
                noise_multiplier=noise,
                sampling_name=MIN_SEPARATION,
                rate=1.0,
                clipping_norm=norm,
                banded=self.banded,
            )
        return _release(sampling, noise, norm, "node" if self.noise_at == "node" else None)

    def counted(self) -> Release:
        """Return the release of updates as a node counts it: its own participation is never a matter of chance.

        An update stays one, whatever else is declared: who asks for it could otherwise pass it off as metrics.
        """
        fixed = self.fixed_size and self.banded is None
        return self.sampled(fixed_size(1.0, 1, counted=True) if fixed else FullParticipation())

    def measured(self) -> Release:
        """Return the release of the metrics: all tasks are asked, and what bounds them is not declared but kept."""
        return metrics_release(len(self.metrics), self.noise_multiplier)

    def to_settings(self) -> dict[str, Any]:
        """Return what travels in a request: numbers, texts, and lists of them."""
        found: dict[str, Any] = {
            "clipping_norm": self.clipping_norm,
            "noise_multiplier": self.noise_multiplier,
            "fixed_size": self.fixed_size,
            "noise_at": self.noise_at,
        }
        if self.banded is not None:
            found["stream"] = list(self.banded.model_dump().values())
        if self.clipping_norms:
            found["clipped_groups"] = list(self.clipping_norms)
            found["clipping_norms"] = [float(norm) for norm in self.clipping_norms.values()]
        if self.metrics:
            found.update(metrics=list(self.metrics), largest_loss=self.largest_loss)
        if self.target_quantile is not None:
            found["target_quantile"] = self.target_quantile
        return found

    @classmethod
    def from_settings(cls, found: Mapping[str, Any]) -> Declaration:
        """Read back what :meth:`to_settings` gave."""
        limits = [int(value) for value in found.get("stream", ())]
        return cls(
            clipping_norm=float(found["clipping_norm"]),
            noise_multiplier=float(found["noise_multiplier"]),
            fixed_size=bool(found.get("fixed_size", False)),
            noise_at="node" if found.get("noise_at") == "node" else "server",
            banded=BandedMechanism(**dict(zip(BandedMechanism.model_fields, limits, strict=True))) if limits else None,
            clipping_norms=dict(zip(found.get("clipped_groups", ()), found.get("clipping_norms", ()), strict=True)),
            target_quantile=found.get("target_quantile"),
            metrics=tuple(found.get("metrics", ())),
            largest_loss=float(found.get("largest_loss", 1.0)),
        )


@lru_cache(maxsize=64)
def _release(sampling: Sampling, noise_multiplier: float, clipping_norm: float, at: Literal["node"] | None) -> Release:
    """Return the release of a round; it is asked for more than once in each, and hardly ever differs."""
    return Release.of(sampling, noise_multiplier, clipping_norm, at)
