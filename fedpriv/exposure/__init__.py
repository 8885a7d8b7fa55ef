"""What a malicious server learns from a run: rows recorded before its noise, attacks on them, pictures."""

from fedpriv.exposure.recorded import read_sighting, record, recorded_rounds
from fedpriv.exposure.results import as_text, results_of
from fedpriv.exposure.watch import Watch, attack_sighting, with_watch

__all__ = [
    "Watch",
    "as_text",
    "attack_sighting",
    "read_sighting",
    "record",
    "recorded_rounds",
    "results_of",
    "with_watch",
]
