"""What a run will ask, release and publish, and what that costs: one value, resolved once, before data are touched.

A plan is made of values: who takes part (:class:`~fedpriv.privacy.participation.Participation`), how updates are
bounded (:class:`~fedpriv.privacy.bounds.Clipping`), which noise hides a task (:class:`Mechanism`) and which means are
published beside (:class:`~fedpriv.privacy.metrics.Metrics`). :meth:`PrivacyPlan.resolve` finds, for the public sizes of
a population, the noise, the releases, relation and delta, and the guarantees that they will come to. The check of the
budget, the requests and the forecast read the resolved plan; what a run prints afterwards is computed from the ledger.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedpriv.errors import InputError, NoGuarantee
from fedpriv.names import kebab, unknown
from fedpriv.privacy.banded import BandedMechanism
from fedpriv.privacy.banded_noise import correlated_sum
from fedpriv.privacy.bounds import WHOLE, Bounds, Clipping
from fedpriv.privacy.calibration import calibrate_noise_multiplier
from fedpriv.privacy.claims import claim
from fedpriv.privacy.declaration import Declaration
from fedpriv.privacy.entropy import Entropy
from fedpriv.privacy.guarantee import Guarantee, guarantees_for
from fedpriv.privacy.ledger import Entry
from fedpriv.privacy.mechanisms import Release, gaussian_sum
from fedpriv.privacy.metrics import Metrics, metrics_norm, metrics_release
from fedpriv.privacy.participation import Participation
from fedpriv.privacy.sampling import (
    FIXED_SIZE,
    MIN_SEPARATION,
    UNAMPLIFIED,
    FixedSizeSampling,
    FullParticipation,
    Sampling,
)
from fedpriv.privacy.target import Target, default_delta
from fedpriv.privacy.terms import NoiseAt, Observer, Output, Relation

__all__ = ["Mechanism", "PrivacyPlan", "ResolvedPlan"]

Arrays = dict[str, NDArray[Any]]

_PREFIX = "group-"
"""What stands before a public group's label in its name."""

_NOISE_TOLERANCE = 1e-6
"""How much the noise for one target may differ, relative to it: other processors and libraries round otherwise."""


@dataclass(frozen=True)
class Mechanism:
    """Gaussian noise on a clipped sum, or on each row: how much, where, and whether rounds share it.

    Attributes
    ----------
    noise : {"independent", "banded"}
        Whether each round draws its noise alone, or noise is correlated over the rounds of the minimum separation, so
        that much of it cancels. Banded noise is for real devices, where nobody can promise secret coins: nothing is
        assumed about who takes part but the limits, and nothing is gained from sampling.
    noise_multiplier : float or None
        The noise itself, in clipping norms; give either this or ``target``. 0 gives no guarantee.
    target : Target or None
        The privacy that all rounds together may cost; the noise multiplier is calibrated to it. With cohorts of fixed
        size it holds under replace-one for what the public sees; personal models may have a larger epsilon then, which
        a run prints, too.
    group_epsilons : mapping or None
        With public groups: the epsilon of each, by its label as text, and noise of its own; the target then states the
        largest.
    delta : float or None
        Where epsilon is reported when the noise is given; 1/(100 m) unless given.
    noise_at : {"server", "node"}
        Who adds the noise. With "node" every task's clipped update gets Gaussian noise of standard deviation
        ``noise_multiplier * clipping_norm`` before it leaves its node: local privacy of the whole task against the
        server, and so against everybody who sees less. The server adds none, and every round counts as a participation.

    Raises
    ------
    InputError
        The values do not go together.
    """

    noise: Literal["independent", "banded"] = "independent"
    noise_multiplier: float | None = None
    target: Target | None = None
    group_epsilons: Mapping[str, float] | None = None
    delta: float | None = None
    noise_at: Literal["server", "node"] = "server"

    def __post_init__(self) -> None:
        if (self.target is None) == (self.noise_multiplier is None):
            raise InputError("give either a target (epsilon, delta) or a noise_multiplier; exactly one of them.")
        if self.target is not None and self.delta is not None:
            raise InputError("the target brings its own delta; leave out 'delta' beside it.")
        if self.group_epsilons is None:
            return
        if not self.group_epsilons or not all(0 < one < math.inf for one in self.group_epsilons.values()):
            raise InputError(f"'group_epsilons' must be positive numbers, one per group, got {self.group_epsilons!r}.")
        largest = max(self.group_epsilons.values())
        if self.target is None or self.target.epsilon != largest:
            raise InputError(
                f"the target must state the largest of the groups' epsilons, {largest:g}, with the delta and the "
                "relation of all; give target=Target(epsilon=...)."
            )


@dataclass(frozen=True)
class PrivacyPlan:
    """All that a run will ask and publish.

    Attributes
    ----------
    rounds : int
        Number of rounds.
    participation : Participation
        Who takes part in a round.
    clipping, mechanism : Clipping and Mechanism, or None
        How a task's update is bounded and hidden; both None where nothing is published.
    metrics : Metrics
        Which means are published beside.
    updates_use_state : bool
        Whether what a task sends may depend on rounds before; True is the safe side, and costs the amplification of
        cohorts of fixed size.

    Raises
    ------
    InputError
        Parts do not go together.
    """

    rounds: int
    participation: Participation
    clipping: Clipping | None = None
    mechanism: Mechanism | None = None
    metrics: Metrics = field(default_factory=Metrics)
    updates_use_state: bool = True

    def __post_init__(self) -> None:
        if (self.clipping is None) != (self.mechanism is None):
            raise InputError("clipping and mechanism go together; give both, or neither where nothing is published.")
        if self.metrics.metrics_every > self.rounds:
            raise InputError(
                f"'metrics_every' must be at most rounds={self.rounds}, got {self.metrics.metrics_every}; 0 is the end "
                "only."
            )
        if self.mechanism is None or self.clipping is None:
            return
        self._check_limits(self.mechanism, self.clipping)
        self._check_rows(self.mechanism, self.clipping)
        self._check_metrics(self.mechanism)
        self._check_relation(self.mechanism)

    def _check_limits(self, mechanism: Mechanism, clipping: Clipping) -> None:
        if mechanism.noise == "banded" and not self.participation.limited:
            raise InputError(
                "banded noise is made for tasks whose participation is limited, and this plan's is not; give its "
                "participation limits=True, or use noise='independent'."
            )
        if mechanism.noise == "banded" and self.participation.separation < 2:
            raise InputError(
                "banded noise needs tasks that wait between two participations: use 'min_separation' of at least 2 and "
                "'sampling_rate' of at most 1 / min_separation, or noise='independent'."
            )
        if clipping.adaptive and self.participation.limited:
            raise InputError(
                "adaptive clipping changes the norm from round to round, and banded noise is made, and "
                "charged, for one norm; use clipping='flat' with limits of participation, or secret coins "
                "('sampling_rate' alone)."
            )

    def _check_rows(self, mechanism: Mechanism, clipping: Clipping) -> None:
        """Refuse what does not go with noise on the nodes."""
        if mechanism.noise_at != "node":
            return
        if self.participation.limited:
            raise InputError(
                "noise on the nodes is drawn and accounted for one participation at a time, so limits and banded noise "
                "would change nothing; leave out 'noise', 'min_separation' and 'max_participations', or set "
                "noise_at = 'server'."
            )
        if clipping.clipping_norms is not None or clipping.clipping != "flat":
            raise InputError(
                "noise on the nodes goes with one clipping norm for the whole update; give 'clipping_norm' alone, or "
                "set noise_at = 'server'."
            )
        if self.metrics.metrics:
            raise InputError(
                "published metrics get the server's noise, which hides nothing from the server, and noise on the nodes "
                "is there to hide from it; leave out 'metrics', or set noise_at = 'server'."
            )
        if mechanism.group_epsilons is not None:
            raise InputError(
                "noise on the nodes is the same in all groups; give one epsilon, or set noise_at = 'server'."
            )

    def _check_metrics(self, mechanism: Mechanism) -> None:
        own, target = self.metrics.metrics_epsilon, mechanism.target
        if self.metrics.metrics and own is None and mechanism.noise_multiplier != 0:
            raise InputError(
                "published metrics cost privacy: give 'metrics_epsilon', such as a tenth of the target, or leave out "
                "'metrics' (scores then stay diagnostics)."
            )
        if target is None or own is None:
            return
        smallest = min((mechanism.group_epsilons or {}).values(), default=math.inf)
        for which, most in (("target's epsilon", target.epsilon), ("smallest of the groups' epsilons,", smallest)):
            if own >= most:
                raise InputError(f"'metrics_epsilon' must be below the {which} {most:g}, which covers it, got {own:g}.")

    def _check_relation(self, mechanism: Mechanism) -> None:
        target = mechanism.target
        if target is None or "relation" not in target.model_fields_set or target.relation is self.relation:
            return
        if mechanism.noise_at == "node":
            raise InputError(
                "noise on the nodes has no guarantee under add/remove, because a row that is missing is seen to be "
                "missing; set relation = 'replace-one'."
            )
        if not self.participation.fixed_cohorts:
            raise InputError(
                f"the scheme {kebab(type(self.participation).__name__)!r} has no guarantee under "
                f"{target.relation.value}, which its 'relations' lack; give a target under 'replace-one'."
            )
        raise InputError(
            "cohorts of fixed size have no guarantee under add/remove, because another task takes the place of one "
            "that is removed; set relation = 'replace-one', or sampling = 'poisson'."
        )

    @property
    def relation(self) -> Relation:
        """The neighbouring relation of the headline; replace-one where there is no other."""
        if self.participation.replaces or self.at_node:
            return Relation.REPLACE_ONE
        target = None if self.mechanism is None else self.mechanism.target
        return Relation.ADD_REMOVE if target is None else target.relation

    @property
    def at_node(self) -> bool:
        """Whether tasks add the noise themselves."""
        return self.mechanism is not None and self.mechanism.noise_at == "node"

    def delta(self, num_tasks: int) -> float:
        """Return the delta at which the guarantee is reported, for a population of this size."""
        if self.mechanism is None:
            return default_delta(num_tasks)
        if self.mechanism.target is not None:
            return self.mechanism.target.delta_for(num_tasks)
        return default_delta(num_tasks) if self.mechanism.delta is None else self.mechanism.delta

    def sampling_of(self, num_tasks: int) -> Sampling:
        """Return how participants are drawn from a group of this size, as it counts.

        Cohorts of fixed size are amplified only where what tasks send does not depend on rounds before.
        """
        return self.participation.sampling_of(num_tasks, counted=self.updates_use_state or self.metrics.personal)

    def check_nodes(self, *, classes: bool, largest_norm: float | None) -> None:
        """Refuse what tasks cannot give or their policy does not allow.

        Parameters
        ----------
        classes : bool
            Whether the tasks predict classes.
        largest_norm : float or None
            The largest clipping norm that the nodes allow.
        """
        clipping = self.clipping
        grows = clipping.largest_norm if clipping is not None and clipping.adaptive else 0.0
        if largest_norm is not None and grows > largest_norm:
            raise InputError(
                f"the nodes' policy allows clipping norms up to {largest_norm:g} ('max_clipping_norm'), and the "
                f"adaptive one may grow to {grows:g}; set 'largest_clipping_norm' to {largest_norm:g}."
            )
        if not classes and any(name.endswith("accuracy") for name in self.metrics.metrics):
            raise InputError("tasks that predict values have no accuracy; release the metric 'personal.loss' instead.")

    def resolve(self, sizes: Mapping[str, int]) -> ResolvedPlan:
        """Find noise, releases and guarantees for a population.

        Parameters
        ----------
        sizes : mapping
            Public group to its number of tasks; one group without groups.

        Raises
        ------
        NoGuarantee
            The table of claims does not know how tasks are chosen.
        InputError
            The plan does not fit this population, or no noise meets the target.
        """
        mechanism, banded = self.mechanism, None
        if mechanism is not None:
            self.check_scheme(sizes)
            banded = self.participation.banded_mechanism(sizes, self.rounds, correlated=mechanism.noise == "banded")
            self._check_groups(mechanism, sizes)
        delta = self.delta(sum(sizes.values()))
        measured = self.metrics.noise(self.rounds, delta, self.relation)
        found = ResolvedPlan(self, dict(sizes), banded, delta, dict.fromkeys(sizes, 0.0), measured)
        if mechanism is None or self.clipping is None:
            return found
        if mechanism.target is None:
            noise = dict.fromkeys(sizes, float(mechanism.noise_multiplier or 0.0))
        else:
            own = mechanism.group_epsilons or {}
            epsilons = {group: own.get(group.removeprefix(_PREFIX), mechanism.target.epsilon) for group in sizes}
            needed = {one: found.calibrated(mechanism.target, one) for one in sorted(set(epsilons.values()))}
            noise = {group: needed[one] for group, one in epsilons.items()}
        found = ResolvedPlan(self, dict(sizes), banded, delta, noise, measured)
        found.bit_share()  # which refuses a count that is too exact for the noise
        found.guarantees  # noqa: B018 (what a run will say of itself can be said before it begins)
        return found

    def check_scheme(self, sizes: Mapping[str, int]) -> None:
        """Refuse a way to choose tasks that the table of claims does not know, or that is charged as another.

        Raises
        ------
        NoGuarantee
            A round would be charged for another draw than it makes.
        """
        if self.mechanism is None:
            return
        seen = (Output.ROWS, Observer.SERVER) if self.at_node else (Output.BILLBOARDS, Observer.PUBLIC)
        for size in sizes.values():
            name, charged = self.participation.scheme(size, counted=self.at_node), self.sampling_of(size)
            row = claim(*seen, NoiseAt(self.mechanism.noise_at), name)
            if not row.holds(Relation.REPLACE_ONE if self.relation is Relation.REPLACE_ONE else Relation.ZERO_OUT):
                raise NoGuarantee(
                    f"no guarantee under {self.relation.value} for tasks chosen by {name!r}, which has one under "
                    f"{' or '.join(row.relations)}; let the scheme's 'relations' return these."
                )
            drawn = self.participation.sampling_of(size, counted=False)
            if isinstance(charged, FixedSizeSampling):
                charged = replace(charged, counted=False)  # which draws alike
            if name != MIN_SEPARATION and (charged != drawn or name not in (FIXED_SIZE, UNAMPLIFIED, charged.name)):
                raise NoGuarantee(
                    f"tasks are chosen by {name!r}, and a round would be charged as {charged.name!r} (rates "
                    f"{drawn.rate:g} and {charged.rate:g}); let 'sampling_of' return a sampling of that name, the same "
                    "whatever 'counted' says."
                )

    def _check_groups(self, mechanism: Mechanism, sizes: Mapping[str, int]) -> None:
        if mechanism.group_epsilons is None:
            return
        there = {group.removeprefix(_PREFIX) for group in sizes if group.startswith(_PREFIX)}
        if not there:
            raise InputError("an epsilon per group needs public groups of tasks; give 'groups', or one epsilon.")
        for label in sorted(set(mechanism.group_epsilons) - there):
            raise InputError("strategy.epsilon: " + unknown("group", label, there))
        for label in sorted(there - set(mechanism.group_epsilons)):
            raise InputError(f"strategy.epsilon must name every group, and {label!r} is missing; give its epsilon.")


@dataclass(frozen=True)
class ResolvedPlan:
    """A plan for one population: everything that follows from public sizes.

    Attributes
    ----------
    plan : PrivacyPlan
        What was planned.
    sizes : mapping
        Public group to its number of tasks.
    banded : BandedMechanism or None
        Under limits of participation: what all rounds together are charged for.
    delta : float
        Of the guarantees.
    noise : mapping
        Public group to the noise multiplier of its updates, in clipping norms.
    metrics_noise : float
        Noise multiplier of published metrics.
    """

    plan: PrivacyPlan
    sizes: Mapping[str, int]
    banded: BandedMechanism | None
    delta: float
    noise: Mapping[str, float]
    metrics_noise: float

    @property
    def num_tasks(self) -> int:
        """Size of the population."""
        return sum(self.sizes.values())

    @property
    def relation(self) -> Relation:
        """The neighbouring relation of the headline; both are printed."""
        return self.plan.relation

    @property
    def noise_multiplier(self) -> float:
        """The noise of the updates; the smallest where groups differ, which is what nodes are told."""
        return min(self.noise.values())

    # --- who takes part ----------------------------------------------------------------------------------------

    @cached_property
    def sampling(self) -> Sampling:
        """How the group is drawn whose tasks take part most often."""
        return max(map(self.plan.sampling_of, self.sizes.values()), key=lambda one: one.rate)

    def expected(self, group: str) -> float:
        """Return how many tasks of a group take part in a round: a public constant."""
        return self.plan.participation.expected(self.sizes[group])

    @property
    def expected_answers(self) -> float:
        """How many answers of tasks go into all releases together, published metrics included, as expected."""
        return self.plan.rounds * sum(map(self.expected, self.sizes)) + self.measurements().total() * self.num_tasks

    # --- what is released, and at what cost --------------------------------------------------------------------

    def declaration(self, bounds: Bounds) -> Declaration:
        """Return what requests say of a round whose updates have these bounds."""
        return Declaration.of(
            bounds,
            self.noise_multiplier,
            fixed_size=self.plan.participation.replaces,
            noise_at="node" if self.plan.at_node else "server",
            banded=self.banded,
        )

    @property
    def measuring(self) -> Declaration:
        """What requests say that ask for published metrics."""
        metrics = self.plan.metrics
        return Declaration(
            clipping_norm=metrics_norm(len(metrics.metrics)),
            noise_multiplier=self.metrics_noise,
            metrics=metrics.metrics,
            largest_loss=metrics.metrics_largest_loss,
        )

    def release(self, group: str, bounds: Bounds) -> Release:
        """Return what a round with these bounds is charged for one group."""
        sampling = self.plan.sampling_of(self.sizes[group])
        return self._release(sampling, bounds, self.noise[group])

    def costliest(self, bounds: Bounds) -> Release:
        """Return the release of a round that costs most: if it can be paid, those of all groups can."""
        return self._release(self.sampling, bounds, self.noise_multiplier)

    def _release(self, sampling: Sampling, bounds: Bounds, noise_multiplier: float) -> Release:
        clipping = self.plan.clipping
        if self.banded is not None and clipping is not None:  # one release for all rounds, to the last bit
            bounds = Bounds({WHOLE: clipping.start})
        return self.declaration(bounds).sampled(sampling, noise_multiplier)

    def measurements(self, rounds: int | None = None) -> Counter[Release]:
        """Return the releases of metrics that are due in the last so many rounds; all of them by default."""
        first = 0 if rounds is None else self.plan.rounds - rounds
        due = sum(number > first for number in self.plan.metrics.due(self.plan.rounds))
        return Counter({metrics_release(len(self.plan.metrics.metrics), self.metrics_noise): due} if due else {})

    def releases(self, rounds: int | None = None) -> Counter[Release]:
        """Return what the last so many rounds will be charged, for the group that costs most; all by default.

        A banded mechanism is charged whole when it begins: nothing is left to pay for the rounds after its first.
        """
        rounds = self.plan.rounds if rounds is None else rounds
        found = self.measurements(rounds)
        if self.plan.clipping is None:
            return found
        times = (1 if rounds >= self.plan.rounds else 0) if self.banded is not None else rounds
        if times:
            found[self.costliest(Bounds({WHOLE: self.plan.clipping.start}))] += times
        return found

    def priced(self, rounds: int) -> tuple[Sampling, int]:
        """Return a sampling and how many releases with it cost as much as a number of rounds, for the same noise.

        A banded mechanism costs one plain release per participation, whenever it stops; and sampling hides nothing from
        a server that reads rows.
        """
        if self.plan.at_node:
            return FullParticipation(), rounds
        if self.banded is not None:
            return FullParticipation(), self.banded.participations
        return self.sampling, rounds

    def calibrated(self, target: Target, epsilon: float) -> float:
        """Return the smallest noise with which all rounds, and the metrics beside them, stay within an epsilon."""
        wanted = target.model_copy(update={"epsilon": epsilon, "relation": self.relation})
        return calibrate_noise_multiplier(wanted, *self.priced(self.plan.rounds), self.num_tasks, self.measurements())

    def targets(self, whole: float) -> list[tuple[float, int]]:
        """Return for each public group the epsilon that was asked for it, ``whole`` where none was, and its size."""
        own = {} if self.plan.mechanism is None else self.plan.mechanism.group_epsilons or {}
        return [(own.get(group.removeprefix(_PREFIX), whole), size) for group, size in self.sizes.items()]

    @cached_property
    def guarantees(self) -> tuple[Guarantee, Guarantee]:
        """What all rounds will come to: the headline, and the guarantee of the personal models."""
        return guarantees_for(self.releases(), delta=self.delta, num_tasks=self.num_tasks, relation=self.relation)

    def as_begun(self, entries: Iterable[Entry]) -> ResolvedPlan:
        """Return the plan with the very noise that a run was begun with, if rounding alone tells it from this one.

        Parameters
        ----------
        entries : iterable of Entry
            What the ledger holds of the run, from the first charge to the last.
        """
        noise, metrics_noise = dict(self.noise), self.metrics_noise
        for entry in entries:
            charged = entry.release.noise_multiplier
            if charged is None:
                continue
            if entry.release.measures is None and self._rounded(charged, self.noise.get(entry.group)):
                noise[entry.group] = charged
            elif entry.release.measures is not None and self._rounded(charged, self.metrics_noise, measures=True):
                metrics_noise = charged
        return replace(self, noise=noise, metrics_noise=metrics_noise)

    def refuse_others(self, entries: Iterable[Entry]) -> None:
        """Refuse a run of which the ledger holds a release that is not planned.

        Raises
        ------
        InputError
            An entry has another mechanism, noise, sampling or round than the plan: it was begun with other settings, or
            by a version that found another noise.
        """
        measured, due = next(iter(self.measurements()), None), set(self.plan.metrics.due(self.plan.rounds))
        for entry in entries:
            planned = measured if entry.round in due else None
            if entry.release.clipping_norm is not None and entry.release.measures is None:
                here = entry.group in self.sizes and 1 <= entry.round <= self.plan.rounds
                # An adaptive norm differs from round to round; it costs nothing.
                bounds = Bounds({WHOLE: entry.release.clipping_norm})
                planned = self.release(entry.group, bounds) if here and self.plan.clipping is not None else None
            if planned is None or not self._same(entry.release, planned):
                raise InputError(
                    f"the ledger holds a release of round {entry.round} that this run does not plan: "
                    f"{entry.release.to_json()}, and planned is {planned.to_json() if planned else 'none'}; go on with "
                    "the settings and the version that began the run, or start a new one."
                )

    def _same(self, release: Release, planned: Release) -> bool:
        """Tell whether a release is the planned one, rounding of a noise that was calibrated aside."""
        noise = planned.noise_multiplier
        return release == planned or (
            self._rounded(release.noise_multiplier, noise, measures=planned.measures is not None)
            and release.model_copy(update={"noise_multiplier": noise}) == planned
        )

    def _rounded(self, charged: float | None, noise: float | None, *, measures: bool = False) -> bool:
        """Tell whether two noises, each found for one target, are the same but for rounding; given ones are exact."""
        calibrated = measures or (self.plan.mechanism is not None and self.plan.mechanism.target is not None)
        if charged is None or noise is None:
            return False
        return calibrated and math.isclose(charged, noise, rel_tol=_NOISE_TOLERANCE)

    # --- noise -------------------------------------------------------------------------------------------------

    def bit_share(self) -> float:
        """Return which share of the budget of a round the bits of adaptive clipping take; 0 without them."""
        if self.plan.clipping is None:
            return 0.0
        expected = sum(map(self.expected, self.sizes))
        return self.plan.clipping.bit_share(expected, len(self.sizes), self.noise_multiplier)

    def noisy(
        self,
        total: Arrays,
        bounds: Bounds,
        number: int,
        group: str,
        entropy: Entropy,
        past: NDArray[np.float64] | None = None,
    ) -> tuple[Arrays, NDArray[np.float64] | None]:
        """Add the noise of a round to a group's clipped sum.

        Parameters
        ----------
        total : dict
            The sum, float64, with the bits of adaptive clipping where there are any.
        bounds : Bounds
            What bounded each task's part.
        number, group : int and str
            Which round, which group.
        entropy : Entropy
            Where the noise comes from.
        past : ndarray or None
            Of correlated noise: what the round before kept.

        Returns
        -------
        dict, ndarray or None
            The noisy sum, and what the next round's noise needs of this one.
        """
        if self.plan.at_node:
            return {name: np.array(value, dtype=np.float64) for name, value in total.items()}, None
        norm, scales = bounds.scales({name: value.size for name, value in total.items()}, self.bit_share())
        scaled = [total[name] / scales[name] for name in total] if scales else list(total.values())
        mechanism, kept = (norm, self.noise[group]), None
        if self.banded is None or self.banded.bands == 1 or self.noise_multiplier == 0:
            noisy = gaussian_sum(scaled, *mechanism, entropy, number, group)
        else:
            noisy, kept = correlated_sum(scaled, *mechanism, self.banded, past, entropy, number, group)
        found: Mapping[str, NDArray[Any]] = dict(zip(total, noisy, strict=True))
        return {name: value * scales[name] if scales else value for name, value in found.items()}, kept
