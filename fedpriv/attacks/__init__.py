"""Attacks of a server that reads rows of updates: gradient inversion, membership games, quick scores."""

from fedpriv.attacks.first_layer import class_counts, first_layer_inputs
from fedpriv.attacks.games import RULES, SETS, Games, Played
from fedpriv.attacks.inversion import Inversion
from fedpriv.attacks.matching import query_match, support_match
from fedpriv.attacks.outcome import Outcome, Rate, auc_bound, judge, roc
from fedpriv.attacks.seen import Seen, seen_rows
from fedpriv.attacks.which_task import WhichTask, which_task

__all__ = [
    "RULES",
    "SETS",
    "Games",
    "Inversion",
    "Outcome",
    "Played",
    "Rate",
    "Seen",
    "WhichTask",
    "auc_bound",
    "class_counts",
    "first_layer_inputs",
    "judge",
    "query_match",
    "roc",
    "seen_rows",
    "support_match",
    "which_task",
]
