"""The record of a run, ``summary.json``, and the lines of its ``metrics.jsonl``: what is written is what is read back.

Keys that this version does not know are kept, not refused: a later one may write more. A NaN becomes ``None`` ("not
known"), so that it can reach neither a table nor a figure.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, StrictInt, StrictStr, ValidationError

from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.sampling import current
from fedpriv.settings import sentences

__all__ = [
    "Diagnostics",
    "GuaranteeRecord",
    "LedgerReference",
    "MetricLine",
    "PublishedMetrics",
    "ReleaseRecord",
    "RunRecord",
    "plain",
]


def plain(value: Any) -> Any:
    """Turn a value into what JSON can hold: infinities become "inf", NaN becomes null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _finite(values: dict[str, float | None]) -> dict[str, float | None]:
    return {name: _known(value) for name, value in values.items()}


def _or_empty(value: Any) -> Any:
    return {} if value is None else value


def _lists(values: dict[str, Any]) -> dict[str, Any]:
    return {name: [] if value is None else value for name, value in _or_empty(values).items()}


Number = Annotated[int | float | None, AfterValidator(_known)]
Numbers = Annotated[dict[str, int | float | None], BeforeValidator(_or_empty), AfterValidator(_finite)]
Lists = Annotated[
    dict[str, list[Number]], BeforeValidator(lambda v: _lists(v) if isinstance(v, dict) else _or_empty(v))
]
Texts = Annotated[dict[str, Any], BeforeValidator(_or_empty)]
TextList = Annotated[list[str], BeforeValidator(lambda value: [] if value is None else value)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", coerce_numbers_to_str=True)

    def to_json(self) -> dict[str, Any]:
        """Return what was read or given, as JSON holds it."""
        found: dict[str, Any] = plain(self.model_dump(exclude_unset=True))
        return found


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
    metrics: dict[str, Numbers] = {}
    spread: dict[str, dict[str, Numbers]] = {}
    per_task: Lists = {}
    tasks_in: str | None = None
    local_compute: Numbers = {}
    held_out: dict[str, Any] = {}


class LedgerReference(_Record):
    """Where the releases of this run are charged."""

    path: str | None = None
    population: str | None = None
    run: str | None = None
    declared: str | None = None
    fingerprint: str | None = None


class ReleaseRecord(_Record):
    """One charged release."""

    round: StrictInt
    mechanism: str
    group: StrictStr = ""
    noise_multiplier: Number = None
    sampling_name: Annotated[str | None, BeforeValidator(current)] = None
    rate: Number = None
    clipping_norm: Number = None
    measures: str | None = None

    @property
    def release(self) -> Release:
        """The release itself."""
        return Release(**self.model_dump(exclude={"round", "group"}, exclude_unset=True))


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


class RunRecord(_Record):
    """``summary.json`` of a finished run."""

    format: Literal[1]
    scenario: str | None = None
    guarantee: GuaranteeRecord
    diagnostics: Diagnostics
    personal_guarantee: GuaranteeRecord | None = None
    group_guarantees: dict[str, GuaranteeRecord] = {}
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
    ledger: Annotated[LedgerReference, BeforeValidator(_or_empty)] = LedgerReference()
    metrics: PublishedMetrics | None = None
    people: list[PersonRecord] = []
    sharing: Sharing = Sharing()
    releases: Annotated[list[ReleaseRecord], BeforeValidator(lambda value: [] if value is None else value)] = []
    measures: dict[str, Any] = {}

    @property
    def protected(self) -> bool:
        """Whether its tasks were declared to be people, whose ledger goes on from run to run."""
        return self.ledger.declared == "protected"

    @classmethod
    def parse(cls, text: str) -> RunRecord:
        """Read back what was written.

        Raises
        ------
        ValueError
            In one sentence, where the text is no such record.
        """
        try:
            return cls.model_validate(json.loads(text))
        except ValidationError as error:
            raise ValueError(sentences(cls, error).rstrip(".")) from None

    @property
    def what(self) -> str:
        """Scenario and preset; a run that was made in Python has none."""
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
    metrics: dict[str, Numbers] = {}
    epsilon: Number = None
    epsilon_replace_one: Number = None
    relation: str | None = None
