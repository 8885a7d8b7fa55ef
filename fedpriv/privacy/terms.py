"""The words of a privacy claim: relation, notion, observer, output, and where the noise is added."""

from __future__ import annotations

import enum

from fedpriv.errors import NoGuarantee

__all__ = ["NoiseAt", "Notion", "Observer", "Output", "Relation", "refuse_add_remove"]


class Relation(enum.StrEnum):
    """Which two populations count as neighbours.

    Under ``ADD_REMOVE`` one task is present in one of them only: a sum of clipped updates differs by the
    clipping norm. Under ``REPLACE_ONE`` one task has other data: it differs by twice the clipping norm. Under
    ``ZERO_OUT`` who the tasks are and who is asked stays the same, and one task counts as zero wherever it takes part.
    The sum differs as under add/remove, and so does the mixture of a Poisson sample, so the same formulas hold; but
    where limits of participation decide who is asked, a task that were really gone would change whose turn it is.
    """

    ADD_REMOVE = "add/remove"
    ZERO_OUT = "zero-out"
    REPLACE_ONE = "replace-one"

    @property
    def sensitivity(self) -> float:
        """By how many clipping norms one task moves a sum."""
        return 2.0 if self is Relation.REPLACE_ONE else 1.0

    @property
    def formulas(self) -> Relation:
        """Return the relation whose formulas hold for this one."""
        return Relation.ADD_REMOVE if self is Relation.ZERO_OUT else self


class Notion(enum.StrEnum):
    """What kind of privacy is claimed."""

    DP = "differential privacy"
    JOINT_DP = "joint differential privacy"
    LOCAL_DP = "local differential privacy"


class Observer(enum.StrEnum):
    """Who looks.

    ``PUBLIC`` reads the billboards and knows neither the coins nor who took part; ``COALITION`` is all other
    tasks together; ``SERVER`` reads the messages of the nodes; ``EXPERIMENTER`` owns the data of a
    simulation.
    """

    PUBLIC = "public"
    COALITION = "coalition"
    SERVER = "server"
    EXPERIMENTER = "experimenter"


class Output(enum.StrEnum):
    """What is looked at."""

    BILLBOARDS = "billboards"
    PERSONAL_MODELS = "personal models"
    ROWS = "rows of updates"
    CLIPPED_SUM = "clipped sum"
    METRICS = "published metrics"
    DIAGNOSTICS = "diagnostics"


class NoiseAt(enum.StrEnum):
    """Where the noise is added: by the server to the sum, or on the node before anything leaves it."""

    SERVER = "server"
    NODE = "node"


def refuse_add_remove(relation: Relation) -> None:
    """Refuse to account for cohorts of fixed size under add/remove.

    Raises
    ------
    NoGuarantee
        The relation is not replace-one.
    """
    if relation is not Relation.REPLACE_ONE:
        raise NoGuarantee(
            f"accounting: cohorts of fixed size have no guarantee under {relation.value}, because another task takes "
            "the place of one that is removed; use the relation replace-one, or Poisson sampling."
        )
