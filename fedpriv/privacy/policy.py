"""What a node agrees to: decided on the node, with the node's own count of participations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import Field

from fedpriv.privacy.accounting import count_releases, epsilon, shared_relations
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.terms import NoiseAt, Relation
from fedpriv.settings import Settings

__all__ = ["Decision", "NodePolicy", "decide", "epsilon_granted"]

_LABELS = {NoiseAt.SERVER: "if the server adds its noise", NoiseAt.NODE: "noise added on the node"}

_USUAL_DELTA = 1e-5


class NodePolicy(Settings):
    """Limits of one node; None means no limit.

    Attributes
    ----------
    max_participations : int or None
        How often a task may take part; contributing to published metrics counts.
    max_epsilon : float or None
        Epsilon that a task's participations may reach, counted without amplification by sampling.
    delta : float or None
        In (0, 1); None stands for 1e-5 (a node does not know the size of the population).
    min_noise_multiplier : float or None
        Least noise that the server must declare, in clipping norms.
    max_clipping_norm : float or None
        Largest bound of an update that the node sends.
    relation : Relation
        Neighbouring relation of ``max_epsilon``; a request for a cohort of fixed size is refused under add/remove.
    diagnostics : bool
        Whether scores of the tasks may be sent to whoever asks; no release covers them.
    """

    max_participations: int | None = Field(default=None, ge=0)
    max_epsilon: float | None = Field(default=None, gt=0.0)
    delta: float | None = Field(default=None, gt=0.0, lt=1.0)
    min_noise_multiplier: float | None = Field(default=None, ge=0.0)
    max_clipping_norm: float | None = Field(default=None, gt=0.0)
    relation: Relation = Relation.ADD_REMOVE
    diagnostics: bool = False

    @property
    def counts(self) -> bool:
        """Whether the answer to a request depends on how often a task took part before."""
        return self.max_participations is not None or self.max_epsilon is not None


@dataclass(frozen=True)
class Decision:
    """Whether a request is granted.

    Attributes
    ----------
    allowed : bool
        Whether the node takes part.
    reason : str
        One sentence, for either answer.
    epsilon : float
        Of all participations including the requested one.
    label : str
        The condition under which epsilon holds.
    """

    allowed: bool
    reason: str
    epsilon: float
    label: str


def decide(
    policy: NodePolicy,
    participations_so_far: Mapping[Release, int] | Iterable[Release],
    request: Release,
    noise_at: NoiseAt = NoiseAt.SERVER,
) -> Decision:
    """Grant or refuse one participation; nothing is recorded.

    Every participation counts as a plain Gaussian mechanism with its noise multiplier: the node knows that it
    took part, so sampling hides nothing from whoever shares that knowledge. The curve is exact. The first participation
    in a banded mechanism counts as all that its limits allow, because the node cannot see the noise: it
    takes the server's word that the noise was made for these limits, as it does for the noise itself.

    Parameters
    ----------
    policy : NodePolicy
        The node's limits.
    participations_so_far : mapping from Release to count, or iterable of Release
        What was granted before, participation by participation.
    request : Release
        What the server declares for this round.
    noise_at : NoiseAt
        Where the noise is added; on the server the node has only its word for it, and the label says so.
    """
    counts = count_releases(participations_so_far)
    counts[request] += 1
    delta = policy.delta or _USUAL_DELTA
    label = _LABELS[noise_at]
    if any(release.banded is not None for release in counts):
        label = f"{label}, banded noise counted as a whole"
    relation, spent = policy.relation, _as_mechanisms(counts)
    if relation is not Relation.REPLACE_ONE and shared_relations([spent])[0] is Relation.REPLACE_ONE:
        if policy.max_epsilon is not None:
            asked = "rows with local noise" if request.noise_at == "node" else "the cohorts of fixed size"
            return Decision(
                False,
                f"this node spends at most epsilon {policy.max_epsilon:g} ('max_epsilon') under {relation.value}, "
                f"which does not describe {asked} of the request; set 'relation' to replace-one.",
                math.inf,
                label,
            )
        relation = Relation.REPLACE_ONE
    total = epsilon(spent, delta, relation, "gaussian").value
    reason = _objection(policy, counts.total(), request, total, delta, label)
    if reason is not None:
        return Decision(False, reason, total, label)
    return Decision(True, f"participation {counts.total()} is within this node's policy.", total, label)


def epsilon_granted(policy: NodePolicy, participations: Mapping[Release, int] | Iterable[Release]) -> float:
    """Return the epsilon of everything that a task granted, as :func:`decide` counts it; 0 if that is nothing.

    Parameters
    ----------
    policy : NodePolicy
        Delta and relation; replace-one where add/remove does not describe what was granted.
    participations : mapping from Release to count, or iterable of Release
        What was granted, participation by participation.
    """
    spent = _as_mechanisms(count_releases(participations))
    if not spent:
        return 0.0
    only_replaced = shared_relations([spent])[0] is Relation.REPLACE_ONE
    relation = Relation.REPLACE_ONE if only_replaced else policy.relation
    return epsilon(spent, policy.delta or _USUAL_DELTA, relation, "gaussian").value


def _as_mechanisms(counts: Counter[Release]) -> Counter[Release]:
    """Count one banded mechanism for every k participations that were begun, k what its limits allow."""
    return Counter(
        {
            release: count if release.banded is None else math.ceil(count / release.banded.participations)
            for release, count in counts.items()
        }
    )


def _objection(
    policy: NodePolicy, participations: int, request: Release, total: float, delta: float, label: str
) -> str | None:
    """Return the first reason to refuse."""
    if policy.max_participations is not None and participations > policy.max_participations:
        return (
            f"this node takes part at most {policy.max_participations} times ('max_participations'), and "
            f"this would be time {participations}."
        )
    if policy.min_noise_multiplier is not None and (request.noise_multiplier or 0.0) < policy.min_noise_multiplier:
        return (
            f"this node asks for a noise multiplier of at least {policy.min_noise_multiplier:g} "
            f"('min_noise_multiplier'), the request declares {request.noise_multiplier or 0.0:g}."
        )
    norm = policy.max_clipping_norm if request.measures is None else None  # which is about updates
    asked = math.inf if request.clipping_norm is None else request.clipping_norm
    if norm is not None and asked > norm * (1.0 + 1e-12):  # norms of groups add up to it by rounding
        return (
            f"this node sends updates of norm at most {norm:g} ('max_clipping_norm'), the request clips at {asked:g}."
        )
    if policy.max_epsilon is not None and total > policy.max_epsilon:
        return (
            f"this node spends at most epsilon {policy.max_epsilon:g} ('max_epsilon') at delta {delta:g}, "
            f"and this participation would make it {total:.4g} ({label}, without amplification)."
        )
    return None
