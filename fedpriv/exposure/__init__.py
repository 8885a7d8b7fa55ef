"""What a malicious server learns from a run: rows recorded before its noise, attacks on them, pictures."""

from fedpriv.exposure.recorded import Scores, read_scores, read_sighting, record, recorded_rounds
from fedpriv.exposure.results import as_text, results_of
from fedpriv.exposure.watch import (
    Attacked,
    Watch,
    attack_sighting,
    episode_seed,
    keep,
    refuse_unattackable,
    to_json,
    with_watch,
)

__all__ = [
    "Attacked",
    "Scores",
    "Watch",
    "as_text",
    "attack_sighting",
    "episode_seed",
    "keep",
    "read_scores",
    "read_sighting",
    "record",
    "recorded_rounds",
    "refuse_unattackable",
    "results_of",
    "to_json",
    "with_watch",
]
