"""The immutable record of one private output, and the Gaussian mechanism on a clipped sum."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, SerializeAsAny, model_validator

from fedpriv.errors import FedprivError, InputError, NoGuarantee
from fedpriv.privacy.banded import BandedMechanism
from fedpriv.privacy.clipping import check_clipping_norm
from fedpriv.privacy.cost import GAUSSIAN, Cost
from fedpriv.privacy.entropy import Entropy
from fedpriv.privacy.gaussian_cost import GaussianCost
from fedpriv.privacy.own_cost import BANDED, OwnCost, check_known, check_registered, parameters_from
from fedpriv.privacy.rounding import to_grid
from fedpriv.privacy.sampling import FIXED_SIZE, MIN_SEPARATION, OLD_NAMES, UNAMPLIFIED, Sampling, current
from fedpriv.settings import Settings

__all__ = ["Release", "gaussian_sum"]

_VERSION = 1
_WRITTEN = {new: old for old, new in OLD_NAMES.items()}


class Release(Settings):
    """What one private output cost: enough to account for it, nothing about its data.

    Two releases that differ in the clipping norm only cost the same: the noise scales with the norm.

    Attributes
    ----------
    mechanism : str
        "gaussian" or "banded", Gaussian noise on a sum of clipped updates: drawn for this release alone, or one round
        of a banded mechanism. All its rounds have the same release, and all of them together cost what it says.
        Other mechanisms go by the name of their cost (:mod:`fedpriv.privacy.own_cost`).
    noise_multiplier : float or None
        Standard deviation of Gaussian noise divided by the clipping norm; 0 means no noise and no guarantee.
    sampling_name : "poisson", "full", "fixed-size", "fixed-size-unamplified" or "min-separation"
        How the tasks of the round were chosen; "fixed-size-unamplified" is not amplified
        (:mod:`fedpriv.privacy.sampling`), and "min-separation" says that nothing is known but the limits of
        participation.
    rate : float
        Probability in (0, 1] that a task takes part; 1 for "full" and "min-separation".
    clipping_norm : float or None
        Bound of the l2 norm of a task's update, for Gaussian noise.
    banded : BandedMechanism or None
        Of which mechanism this is one round, for "banded".
    measures : "metrics" or None
        Of what the sum is: mean scores of the tasks; None is their updates. It costs the same.
    noise_at : "node" or None
        "node" if every task's node added the noise to its own row before it left: then the release is what the server
        sees of a task, and nothing but replace-one has a formula. None for noise that the server adds.
    parameters : OwnCost or None
        What a mechanism with noise of another kind costs; None for Gaussian noise.
    """

    mechanism: Annotated[str, AfterValidator(check_known)] = GAUSSIAN
    noise_multiplier: float | None = Field(default=None, ge=0.0)
    sampling_name: Literal["poisson", "full", "fixed-size", "fixed-size-unamplified", "min-separation"]
    rate: float = Field(gt=0.0, le=1.0)
    clipping_norm: float | None = Field(default=None, ge=1e-100, le=1e100)
    banded: BandedMechanism | None = Field(default=None, serialization_alias="stream")
    measures: Literal["metrics"] | None = None
    noise_at: Literal["node"] | None = None
    parameters: SerializeAsAny[OwnCost] | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, values: Any) -> Any:
        """Read the names that ledgers and run folders have, whichever version wrote them."""
        if not isinstance(values, dict):
            return values
        found = dict(values)
        if "stream" in found and "banded" not in found:
            found["banded"] = found.pop("stream")
        if "sampling_name" in found:
            found["sampling_name"] = current(found["sampling_name"])
        return found

    @model_validator(mode="after")
    def _noise_is_said_once(self) -> Release:
        if self.parameters is None:
            for name in ("noise_multiplier", "clipping_norm"):
                if getattr(self, name) is None:
                    raise ValueError(f"a release of Gaussian noise needs {name!r}; say how much.")
            return self
        check_registered(self.parameters)
        said = (self.noise_multiplier, self.clipping_norm, self.measures, self.noise_at)
        if said != (None,) * 4 or (self.mechanism, self.rate) != (self.parameters.mechanism, self.parameters.rate):
            raise ValueError(
                f"all that is known of the mechanism {self.mechanism!r} are its parameters; use Release.own(...)."
            )
        if self.sampling_name not in self.parameters.samplings:
            raise ValueError(
                f"there is no formula for the mechanism {self.mechanism!r} with {self.sampling_name!r} sampling; use "
                f"one of {', '.join(self.parameters.samplings)}."
            )
        return self

    @model_validator(mode="after")
    def _parts_go_together(self) -> Release:
        if self.sampling_name in ("full", MIN_SEPARATION) and self.rate != 1.0:
            raise ValueError(f"'rate' must be 1 for {self.sampling_name} participation, got {self.rate!r}.")
        parts = (self.mechanism == BANDED, self.sampling_name == MIN_SEPARATION, self.banded is not None)
        if len(set(parts)) != 1:
            raise ValueError(
                "banded noise needs all of mechanism='banded', sampling_name='min-separation' and banded=..., got "
                f"{self.mechanism!r}, {self.sampling_name!r} and {self.banded!r}."
            )
        if self.noise_at == "node" and (self.mechanism != GAUSSIAN or self.sampling_name == FIXED_SIZE):
            raise ValueError(
                "noise on the node is independent from row to row and never amplified, got "
                f"{self.mechanism!r} with {self.sampling_name!r} sampling; use mechanism='gaussian', and "
                f"{UNAMPLIFIED!r} for cohorts of fixed size."
            )
        return self

    @classmethod
    def of(
        cls,
        sampling: Sampling,
        noise_multiplier: float,
        clipping_norm: float = 1.0,
        noise_at: Literal["node"] | None = None,
    ) -> Release:
        """Return the release of a noisy sum, or of noisy rows, over tasks that this sampling chose."""
        name = UNAMPLIFIED if noise_at == "node" and sampling.name == FIXED_SIZE else sampling.name
        return cls(
            noise_multiplier=noise_multiplier,
            sampling_name=name,
            rate=sampling.rate,
            clipping_norm=clipping_norm,
            noise_at=noise_at,
        )

    @classmethod
    def own(cls, parameters: OwnCost) -> Release:
        """Return the release of a mechanism with a cost of its own, for everybody or for a sample by secret coins."""
        name = "full" if parameters.rate == 1.0 else "poisson"
        return cls(mechanism=parameters.mechanism, sampling_name=name, rate=parameters.rate, parameters=parameters)

    @property
    def rounds(self) -> int:
        """Number of rounds that are paid for: the horizon of a banded mechanism, else 1."""
        return 1 if self.banded is None else self.banded.horizon

    @property
    def cost(self) -> Cost:
        """All that the release costs.

        A whole banded mechanism is one Gaussian release without sampling, whose noise is compared with its sensitivity.

        Every formula of this package asks here, so that a new kind of release is refused until it has one of its own.

        Raises
        ------
        NoGuarantee
            The release is neither Gaussian noise on the sum of a sample that has a formula, nor of a mechanism with a
            cost of its own.
        """
        if self.parameters is not None:
            return self.parameters
        noise = self.noise_multiplier or 0.0
        if self.banded is not None and (self.mechanism, self.sampling_name) == (BANDED, MIN_SEPARATION):
            return GaussianCost(noise / self.banded.sensitivity, 1.0)
        known = ("poisson", "full", FIXED_SIZE, UNAMPLIFIED)
        if self.mechanism != GAUSSIAN or self.sampling_name not in known:
            raise NoGuarantee(
                f"accounting: there is no formula for the mechanism {self.mechanism!r} with {self.sampling_name!r} "
                f"sampling; use Gaussian noise with one of the samplings {', '.join(known)}."
            )
        if self.noise_at == "node":  # the server knows who took part: every participation counts, and a row is replaced
            return GaussianCost(noise, 1.0, fixed=True)
        fixed = self.sampling_name in (FIXED_SIZE, UNAMPLIFIED)
        return GaussianCost(noise, 1.0 if self.sampling_name == UNAMPLIFIED else self.rate, fixed)

    def at_any_norm(self) -> Release:
        """Return this release with the clipping norm 1, which costs the same; a banded mechanism keeps its norm."""
        fixed = self.banded is not None or self.parameters is not None
        return self if fixed else self.model_copy(update={"clipping_norm": 1.0})

    def counted(self) -> Release:
        """Return the release as it counts where a cohort of fixed size is not amplified; others stay as they are."""
        if self.sampling_name != FIXED_SIZE:
            return self
        return self.model_copy(update={"sampling_name": UNAMPLIFIED})

    def record(self) -> dict[str, Any]:
        """Return all that is known of the release, for a run's record."""
        return self.model_dump(by_alias=True, exclude={"parameters"} if self.parameters is None else None)

    def to_json(self) -> str:
        """Return the release as one line of JSON with sorted keys; equal releases give equal text."""
        # As it always was: what is None is left out, ``banded`` is called "stream", and samplings have old names.
        values = self.model_dump(by_alias=True, exclude_none=True)
        values["sampling_name"] = _WRITTEN.get(self.sampling_name, self.sampling_name)
        if self.parameters is not None:  # of which None may be the value of one, and another its default
            values["parameters"] = self.parameters.model_dump(mode="json")
        return json.dumps({"version": _VERSION, **values}, sort_keys=True)

    def text(self) -> str:
        """Return :meth:`to_json` for a ledger, which must give this very release when it is read.

        Raises
        ------
        InputError
            Read back it would be another release, and might cost less.
        """
        text = self.to_json()
        lost = "it is another release"
        try:
            back = Release.from_json(text)
            if back == self and repr(back) == repr(self):  # repr tells types apart that are equal, such as 1 and True
                return text
        except FedprivError as error:
            lost = f"it is none ({error})"
        raise InputError(
            f"release: read back from its text in a ledger, {lost}: {text}; give the parameters of the mechanism "
            f"{self.mechanism!r} types that JSON can hold, without 'alias' or 'exclude'."
        )

    @classmethod
    def from_json(cls, text: str) -> Release:
        """Read back what :meth:`to_json` wrote.

        Raises
        ------
        NoGuarantee
            It is of a mechanism that is not known here.
        InputError
            If the text is not a release, or was written by a newer version.
        """
        try:
            values: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"release: the text is not JSON ({error}); it was not written by fedpriv.") from None
        if not isinstance(values, dict) or values.pop("version", None) != _VERSION:
            raise InputError(f"release: version {_VERSION} is expected, got {text!r}; use the fedpriv that wrote it.")
        if "parameters" in values:
            values["parameters"] = parameters_from(str(values.get("mechanism")), values["parameters"])
        return cls(**values)


def gaussian_sum(
    total: Sequence[NDArray[Any]],
    clipping_norm: float,
    noise_multiplier: float,
    entropy: Entropy,
    round: int,
    group: str = "",
    relate: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None,
) -> list[NDArray[np.float64]]:
    """Add independent N(0, (noise_multiplier * clipping_norm)^2) to every coordinate of a clipped sum, and round it.

    The noise does not depend on who answered: it is added to a sum of zeros as well. The noisy sum lies on a public
    grid, which its standard deviation decides (:mod:`fedpriv.privacy.rounding`).

    Parameters
    ----------
    total : sequence of arrays
        The output of :func:`fedpriv.privacy.clipped_sum`.
    clipping_norm, noise_multiplier : float
        The bound of the updates and the noise relative to it; a multiplier of 0 adds nothing.
    entropy : Entropy
        Where the noise comes from; asked once, for the purpose "noise" of this round and group.
    round : int
        Number of the release, at least 0.
    group : str
        Which disjoint group of tasks the sum belongs to; empty for all tasks.
    relate : callable or None
        Turns the standard normals of this round into noise that depends on earlier rounds, too (see
        :func:`fedpriv.privacy.banded_noise.correlated_sum`).

    Returns
    -------
    list of float64 arrays
        New arrays of the same shapes.

    Raises
    ------
    InputError
        If a parameter is out of range or the sum is not finite.
    """
    check_clipping_norm(clipping_norm)
    if not 0.0 <= noise_multiplier < math.inf:
        raise InputError(
            f"mechanism: 'noise_multiplier' must be a finite number of at least 0, got {noise_multiplier!r}."
        )
    sums = [np.array(array, dtype=np.float64) for array in total]
    for position, array in enumerate(sums):
        if not np.isfinite(array).all():
            raise InputError(f"mechanism: array {position} of the sum is not finite; pass it through clipped_sum.")
    std = noise_multiplier * clipping_norm
    if not math.isfinite(std):
        raise InputError(
            f"mechanism: noise_multiplier * clipping_norm must be finite, got {noise_multiplier!r} * {clipping_norm!r}."
        )
    if std == 0.0:
        if noise_multiplier > 0.0:
            raise InputError(f"mechanism: the noise {noise_multiplier!r} * {clipping_norm!r} rounds to zero; use more.")
        return sums
    noise = entropy.normal("noise", round, sum(array.size for array in sums), group)
    if relate is not None:
        noise = relate(noise)
    noise *= std
    start = 0
    for array in sums:
        array += noise[start : start + array.size].reshape(array.shape)
        start += array.size
    return [to_grid(array, std) for array in sums]
