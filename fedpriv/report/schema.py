"""What a run folder's files say, as frozen values: the shape that the report relies on, and nothing else.

Unknown keys are passed over, not refused: a later version may write more than this one reads. A NaN becomes
``None`` ("not known"), so that it can reach neither a table nor a figure.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

__all__ = [
    "Diagnostics",
    "GuaranteeRecord",
    "LedgerReference",
    "MetricLine",
    "PublishedMetrics",
    "ReleaseRecord",
    "Summary",
]


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _finite(values: dict[str, float | None]) -> dict[str, float | None]:
    return {name: _known(value) for name, value in values.items()}


def _or_empty(value: Any) -> Any:
    return {} if value is None else value


def _lists(values: dict[str, Any]) -> dict[str, Any]:
    return {name: [] if value is None else value for name, value in _or_empty(values).items()}


Number = Annotated[float | None, AfterValidator(_known)]
Numbers = Annotated[dict[str, float | None], BeforeValidator(_or_empty), AfterValidator(_finite)]
Lists = Annotated[
    dict[str, list[Number]], BeforeValidator(lambda v: _lists(v) if isinstance(v, dict) else _or_empty(v))
]
Texts = Annotated[dict[str, Any], BeforeValidator(_or_empty)]
TextList = Annotated[list[str], BeforeValidator(lambda value: [] if value is None else value)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)


class GuaranteeRecord(_Record):
    """The guarantee of a run as its summary states it; without a finite epsilon nothing is bounded."""

    notion: str
    unit: str
    relation: str
    observer: str
    sentence: str
    output: str | None = None
    epsilon: Number = None
    epsilon_replace_one: Number = None
    delta: Number = None
    accountant: str | None = None
    rounds: int | None = None
    noise_multiplier: Number = None
    clipping_norm: Number = None
    num_tasks: int | None = None
    sampling: str | None = None
    assumptions: TextList = []
    warnings: TextList = []
    reproduction: bool = False


class Diagnostics(_Record):
    """What only the experimenter may see; a summary that calls it released is refused."""

    released: Literal[False] = False
    accuracy: Numbers = {}
    loss: Numbers = {}
    per_task: Lists = {}
    local_compute: Numbers = {}


class LedgerReference(_Record):
    """Where the releases of this run are charged."""

    path: str | None = None
    population: str | None = None
    declared: str | None = None


class ReleaseRecord(_Record):
    """One charged release."""

    round: int
    mechanism: str
    group: str = ""
    noise_multiplier: Number = None
    sampling_name: str | None = None
    rate: Number = None
    clipping_norm: Number = None
    measures: str | None = None


class PublishedMeans(_Record):
    """Noisy means over all tasks after one round, and the standard deviation of their noise."""

    round: int
    values: Numbers = {}
    noise: Numbers = {}


class GuaranteeShare(_Record):
    """The cost of a part of the releases."""

    epsilon: Number = None
    delta: Number = None
    relation: str
    observer: str


class PublishedMetrics(_Record):
    """Means that were released, and what all of them cost without anything else."""

    released: Literal[True]
    means: list[PublishedMeans] = []
    alone: GuaranteeShare


class Sharing(_Record):
    """Whether sharing was forecast to pay, and what was measured; None where it was not bad."""

    ratio: Number = None
    forecast: str | None = None
    measured: str | None = None


class PersonRecord(_Record):
    """What a person with several tasks spends."""

    tasks: int
    epsilon: Number = None
    relation: str


class Summary(_Record):
    """``summary.json`` of a finished run."""

    format: Literal[1]
    scenario: str | None = None
    guarantee: GuaranteeRecord
    diagnostics: Diagnostics
    personal_guarantee: GuaranteeRecord | None = None
    preset: str | None = None
    finished: bool = True
    rounds: int | None = None
    num_tasks: int | None = None
    grid: str | None = None
    engine: str | None = None
    seed: int | None = None
    reproduce: int | None = None
    tasks_per_second: Number = None
    seconds: Numbers = {}
    versions: Texts = {}
    ledger: LedgerReference | None = None
    metrics: PublishedMetrics | None = None
    people: list[PersonRecord] = []
    sharing: Sharing = Sharing()
    releases: Annotated[list[ReleaseRecord], BeforeValidator(lambda value: [] if value is None else value)] = []

    @property
    def what(self) -> str:
        """Scenario and preset; a run of one's own has none."""
        return " / ".join(part for part in (self.scenario, self.preset) if part) or "of one's own, in Python"

    @property
    def other_guarantee(self) -> GuaranteeRecord | None:
        """What holds for the personal models, where that is not what ``guarantee`` says."""
        return None if self.personal_guarantee == self.guarantee else self.personal_guarantee


class MetricLine(_Record):
    """One line of ``metrics.jsonl``."""

    kind: str
    round: int
    loss: Numbers = {}
    accuracy: Numbers = {}
    epsilon: Number = None
    epsilon_replace_one: Number = None
    relation: str | None = None
