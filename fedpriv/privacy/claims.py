"""What may be claimed for what: the table that guarantees, ledgers, attacks and audits read.

Whatever is not in the table is refused with one sentence that says what to do instead.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from fedpriv.errors import NoGuarantee
from fedpriv.privacy.cost import GAUSSIAN
from fedpriv.privacy.own_cost import BANDED
from fedpriv.privacy.sampling import FIXED_SIZE, MIN_SEPARATION, UNAMPLIFIED, Sampling, current
from fedpriv.privacy.terms import NoiseAt, Notion, Observer, Output, Relation

__all__ = ["CLAIMS", "Row", "claim"]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    output, observer, noise_at
        What is looked at, by whom, and where the noise is added.
    relations : tuple of Relation
        Valid neighbouring relations; the first one is the headline.
    samplings : tuple of str
        Names of the samplings that may run.
    amplified : bool
        Whether sampling may lower epsilon; False where the observer knows who took part.
    notion : Notion
        What is claimed.
    accounting, attacks : str
        How it is accounted, and which attacks may be shown beside it.
    mechanisms : tuple of str
        Names of the mechanisms whose noise may be claimed.
    """

    output: Output
    observer: Observer
    noise_at: NoiseAt
    relations: tuple[Relation, ...]
    samplings: tuple[str, ...]
    amplified: bool
    notion: Notion
    accounting: str
    attacks: str
    mechanisms: tuple[str, ...] = (GAUSSIAN, BANDED)

    def holds(self, relation: Relation) -> bool:
        """Tell whether the relation is valid: zero-out is wherever add/remove is, with the same epsilon."""
        return relation in self.relations or (relation is Relation.ZERO_OUT and Relation.ADD_REMOVE in self.relations)


_REPLACE = (Relation.REPLACE_ONE,)
_BOTH = (Relation.ADD_REMOVE, Relation.REPLACE_ONE)
_SAMPLINGS = ("poisson", "full")
_LIMITED = (Relation.ZERO_OUT, Relation.REPLACE_ONE)
"""Where limits of participation decide who is asked: it is public whose turn it is, also of a task that is zero."""

_billboards = functools.partial(
    Row,
    Output.BILLBOARDS,
    Observer.PUBLIC,
    NoiseAt.SERVER,
    notion=Notion.DP,
    attacks="attacks on the sequence of billboards (tracing, canaries)",
)
_personal_models = functools.partial(
    Row,
    Output.PERSONAL_MODELS,
    Observer.COALITION,
    NoiseAt.SERVER,
    notion=Notion.JOINT_DP,
    attacks="attacks on the sequence of billboards, and attacks from colluding tasks",
)
_at_node = functools.partial(
    Row, observer=Observer.SERVER, noise_at=NoiseAt.NODE, amplified=False, notion=Notion.LOCAL_DP
)

CLAIMS: tuple[Row, ...] = (
    _billboards(
        relations=_BOTH,
        samplings=_SAMPLINGS,
        amplified=True,
        accounting="privacy loss distributions (Poisson coins must be secret), or the exact Gaussian curve",
    ),
    _billboards(
        relations=_LIMITED,
        samplings=(MIN_SEPARATION,),
        amplified=True,
        accounting="the exact Gaussian curve of the whole banded mechanism; who is asked when may be public",
    ),
    _personal_models(
        relations=_BOTH,
        samplings=_SAMPLINGS,
        amplified=True,
        accounting="the same billboards, through the billboard lemma; Poisson coins must be secret",
    ),
    _personal_models(
        relations=_LIMITED,
        samplings=(MIN_SEPARATION,),
        amplified=True,
        accounting="the same billboards, through the billboard lemma; the exact Gaussian curve of the whole banded "
        "mechanism",
    ),
    _billboards(
        relations=_REPLACE,
        samplings=(FIXED_SIZE,),
        amplified=True,
        accounting="certified privacy loss distributions of sampling without replacement; draws must be secret from "
        "all tasks too, and updates may not depend on earlier rounds",
    ),
    _billboards(
        relations=_REPLACE,
        samplings=(UNAMPLIFIED,),
        amplified=False,
        accounting="the exact Gaussian curve, every round counted as a participation",
    ),
    _personal_models(
        relations=_REPLACE,
        samplings=(UNAMPLIFIED,),
        amplified=False,
        accounting="the same billboards, through the billboard lemma; the coalition knows who took part, so every "
        "round is counted as a participation, by the exact Gaussian curve",
    ),
    Row(
        output=Output.METRICS,
        observer=Observer.PUBLIC,
        noise_at=NoiseAt.SERVER,
        relations=_BOTH,
        samplings=_SAMPLINGS,
        amplified=True,
        notion=Notion.DP,
        accounting="the exact Gaussian curve; together with billboards they are accounted as billboards are",
        attacks="attacks on published means (tracing, canaries)",
    ),
    _at_node(
        output=Output.ROWS,
        # A row that is missing is seen to be missing: only its content can be hidden.
        relations=_REPLACE,
        samplings=(*_SAMPLINGS, UNAMPLIFIED),
        accounting="the exact Gaussian curve, every participation counted",
        attacks="inversion and membership from rows",
    ),
    _at_node(
        output=Output.CLIPPED_SUM,
        relations=_BOTH,
        samplings=_SAMPLINGS,
        accounting="the exact Gaussian curve, every participation counted",
        attacks="attacks on the node's sum",
    ),
    _at_node(
        output=Output.CLIPPED_SUM,
        relations=_REPLACE,
        samplings=(UNAMPLIFIED,),
        accounting="the exact Gaussian curve, every round counted as a participation",
        attacks="attacks on the node's sum",
    ),
)
"""Everything that may be claimed."""


def claim(
    output: Output, observer: Observer, noise_at: NoiseAt, sampling: Sampling | str, mechanism: str = GAUSSIAN
) -> Row:
    """Look up what may be claimed.

    Parameters
    ----------
    output : Output
        What is looked at.
    observer : Observer
        Who looks.
    noise_at : NoiseAt
        Where the noise is added.
    sampling : Sampling or str
        How tasks are chosen, or its name.
    mechanism : str
        Name of the mechanism that adds the noise.

    Raises
    ------
    NoGuarantee
        If the table has no such line; the message says what to do instead.
    """
    output, observer, noise_at = Output(output), Observer(observer), NoiseAt(noise_at)
    name = current(sampling) if isinstance(sampling, str) else sampling.name
    rows = [row for row in CLAIMS if (row.output, row.observer, row.noise_at) == (output, observer, noise_at)]
    for row in rows:
        if name in row.samplings and mechanism in row.mechanisms:
            return row
    if any(name in row.samplings for row in rows):
        raise NoGuarantee(
            f"no guarantee for {output.value} seen by the {observer.value} with noise of the mechanism {mechanism!r}: "
            "the table of claims does not know it; state epsilon of the ledger's releases alone, or add its name to "
            "the 'mechanisms' of a row of CLAIMS."
        )
    if rows and name == FIXED_SIZE:
        raise NoGuarantee(
            f"no guarantee for {output.value} seen by the {observer.value} with {FIXED_SIZE!r} sampling, which is "
            f"amplified only towards those who cannot tell who takes part; count every round in full "
            f"({UNAMPLIFIED!r}), or let every task flip its own coin ('poisson')."
        )
    if rows:
        known = [one for row in rows for one in row.samplings]
        raise NoGuarantee(
            f"no guarantee for {output.value} seen by the {observer.value} with {name!r} sampling: accounted are "
            f"{', '.join(known)}; let every task flip its own coin ('poisson'), or all of them take part ('full')."
        )
    raise NoGuarantee(
        f"no guarantee for {output.value} seen by the {observer.value}: {_instead(output, observer, noise_at)}"
    )


def _instead(output: Output, observer: Observer, noise_at: NoiseAt) -> str:
    """Say why a combination is not in the table and what to do."""
    if output is Output.DIAGNOSTICS:
        return "diagnostics carry no noise and stay with the experimenter; publish billboards instead."
    if observer is Observer.EXPERIMENTER:
        there = [row for row in CLAIMS if row.output is output]
        known = {row.observer: None for row in there if row.noise_at is noise_at} or dict.fromkeys(
            row.observer for row in there
        )
        return f"the experimenter holds the data itself; name the {' or the '.join(known)}."
    if observer is Observer.SERVER:
        if output is Output.PERSONAL_MODELS:
            return "personal models never leave their nodes; claim the rows or clipped sums that it sees."
        if noise_at is NoiseAt.SERVER:
            return (
                "noise that the server adds gives nothing against the server, which reads the updates before "
                "it adds the noise; add the noise on the node."
            )
        return (
            "the server reads the updates behind the billboards; claim rows or clipped sums with noise on "
            "the node, which covers the billboards as well."
        )
    if output in (Output.ROWS, Output.CLIPPED_SUM):
        return (
            "updates are sent to the server only; claim the billboards for the public, or rows and sums with "
            "noise on the node for the server."
        )
    if noise_at is NoiseAt.NODE:
        return (
            "noise on the node is claimed for the rows or sums that the server sees, which covers everything "
            "made from them; claim those against the server."
        )
    if output is Output.PERSONAL_MODELS:
        return (
            "a personal model depends on its own task's data, so it is jointly private towards the other "
            "tasks only; claim it against a coalition, or publish the billboards alone."
        )
    return "the other tasks hold personal models too; claim those against a coalition (joint DP)."
