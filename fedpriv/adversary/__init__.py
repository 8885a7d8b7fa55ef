"""What a server that reads rows of updates learns: gradient inversion, membership games, attacks on a run."""

from typing import Any

from fedpriv.adversary.first_layer import class_counts, first_layer_inputs
from fedpriv.adversary.games import RULES, SETS, GameResults, Games
from fedpriv.adversary.inversion import Inversion
from fedpriv.adversary.matching import query_match, support_match
from fedpriv.adversary.observed_rows import ObservedRows, observe_rows
from fedpriv.adversary.observer import Observer, Sighting
from fedpriv.adversary.outcome import Outcome, Rate, auc_bound, judge, roc
from fedpriv.adversary.recorded import Scores, read_scores, read_sighting, record, recorded_rounds
from fedpriv.adversary.results import as_text, results_of
from fedpriv.adversary.watch import (
    AttackResult,
    Watch,
    attack_sighting,
    episode_seed,
    keep,
    refuse_unattackable,
    to_json,
    with_watch,
)
from fedpriv.adversary.which_task import WhichTask, which_task
from fedpriv.names import renamed

__all__ = [
    "RULES",
    "SETS",
    "AttackResult",
    "GameResults",
    "Games",
    "Inversion",
    "ObservedRows",
    "Observer",
    "Outcome",
    "Rate",
    "Scores",
    "Sighting",
    "Watch",
    "WhichTask",
    "as_text",
    "attack_sighting",
    "auc_bound",
    "class_counts",
    "episode_seed",
    "first_layer_inputs",
    "judge",
    "keep",
    "observe_rows",
    "query_match",
    "read_scores",
    "read_sighting",
    "record",
    "recorded_rounds",
    "refuse_unattackable",
    "results_of",
    "roc",
    "support_match",
    "to_json",
    "which_task",
    "with_watch",
]

_OLD = {"Attacked": "AttackResult", "Played": "GameResults", "Seen": "ObservedRows", "seen_rows": "observe_rows"}
"""Old names of what is here, and their new ones; they work, with a warning, until version 0.2."""


def __getattr__(name: str) -> Any:
    return globals()[renamed(__name__, name, _OLD)]
