"""Listening during a run, and attacking inside the rounds that were listened to."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from fedpriv.adversary.figures import write_pictures
from fedpriv.adversary.games import SETS, GameResults, Games, SetName
from fedpriv.adversary.observed_rows import ObservedRows, observe_rows
from fedpriv.adversary.observer import Sighting
from fedpriv.adversary.outcome import auc_bound
from fedpriv.adversary.page import write_attack_page
from fedpriv.adversary.recorded import private_folder, record, record_scores
from fedpriv.adversary.which_task import WhichTask, which_task
from fedpriv.cohort import Cohort, Key, refuse_once_differentiable_on, usable
from fedpriv.errors import FedprivError, InputError
from fedpriv.names import kebab
from fedpriv.progress import show_part
from fedpriv.runs import plain, read_config
from fedpriv.runs.atomic import write_bytes

if TYPE_CHECKING:
    from fedpriv.experiment import Experiment

__all__ = [
    "AttackResult",
    "Watch",
    "attack_sighting",
    "episode_seed",
    "keep",
    "refuse_protected",
    "refuse_unattackable",
    "show",
    "to_json",
    "with_watch",
]


class Watch(Games):
    """The settings of ``[attack]``: when to listen, what to keep, and (see :class:`Games`) how to attack.

    Attributes
    ----------
    rounds : tuple of int, or None
        Rounds to listen to; the first, the middle and the last one unless given.
    sets : tuple of {"query", "support"}
        What is attacked.
    global_game : bool
        Whether to ask, too, in whose query set an image is, among 20 tasks.
    during : bool
        Whether to attack inside the rounds; otherwise rows are recorded only, for `fedpriv attack RUN`.
    limit_mib : float
        How much disk the recorded rows of a run may take; rows beyond it are left out, and said so.
    """

    called: ClassVar[str | None] = "attack"

    rounds: tuple[int, ...] | None = None
    sets: tuple[SetName, ...] = SETS
    global_game: bool = True
    during: bool = True
    limit_mib: float = Field(default=256.0, gt=0)


@dataclass(frozen=True)
class AttackResult:
    """What came out of one round.

    Attributes
    ----------
    played : dict
        The local games, by set.
    which_task : WhichTask or None
        The global game.
    unusable : int
        Rows that could not be attacked: all zero, or of an episode that is not full.
    """

    played: dict[str, GameResults]
    which_task: WhichTask | None
    unusable: int


def with_watch(experiment: Experiment, watch: Watch) -> Experiment:
    """Return the experiment with a malicious server around its strategy; everything is checked before it starts.

    Raises
    ------
    InputError
        The data are protected, the client sends no meta-gradients, nodes send sums, or there are too few tasks.
    """
    refuse_protected(experiment)
    last = experiment.strategy.rounds
    rounds = watch.rounds or tuple(sorted({1, (last + 1) // 2, last}))
    if watch.during:
        refuse_unattackable(experiment, watch)
        if experiment.strategy.reply_kind == "sum":
            raise InputError(_sums(None))
        needed = watch.games + watch.validation
        if needed > len(experiment.tasks):
            raise InputError(
                f"{watch.games} games and {watch.validation} for the threshold need {needed} rows of one round, and "
                f"there are {len(experiment.tasks)} tasks; lower attack.games or attack.validation, or add tasks."
            )
    watching = AttackObserver(experiment, watch, frozenset(rounds))
    return experiment.model_copy(update={"strategy": experiment.strategy.observed_by(watching)})


@dataclass(frozen=True)
class AttackObserver:
    """The observer of ``[attack]``: it records what it sees in the run's folder, and attacks inside the rounds."""

    experiment: Experiment
    watch: Watch
    rounds: frozenset[int]

    def see(self, sighting: Sighting) -> None:
        """Record, and attack if that is wanted; what goes wrong is noted and does not stop the run."""
        run = sighting.folder
        if run is None or not (run / "config.toml").exists():
            return  # nobody would read it
        left_out = record(sighting, run, int(self.watch.limit_mib * 2**20))
        found: dict[str, Any] = {"round": sighting.round, "left_out": left_out}
        attacked = None
        if self.watch.during:
            try:
                attacked = attack_sighting(self.experiment, sighting, self.watch, episode_seed(run))
                found |= to_json(attacked, self.experiment)
            except FedprivError as error:  # an attack that fails may not stop the run that it listens to
                found["failed"] = str(error)
        keep(run, found)
        if attacked is not None:
            try:
                show(run, found, attacked)
            except Exception as error:  # nor may a picture
                logging.getLogger("fedpriv").warning("no pictures of the attack in round %d: %s", sighting.round, error)


def attack_sighting(experiment: Experiment, sighting: Sighting, games: Watch, seed: int) -> AttackResult:
    """Play the games on what was seen in one round.

    Parameters
    ----------
    seed : int
        The run's public seed, from which tasks drew their episodes.

    Raises
    ------
    InputError
        Sums were recorded, or rows cannot be attacked.
    """
    if sighting.kind == "sum":
        raise InputError(_sums(sighting))
    seen, cohort, left_out = _largest_group(experiment, sighting, seed)
    played: dict[str, GameResults] = {
        name: games.play(
            seen,
            name,
            cohort,
            seed=seed,
            progress=partial(show_part, f"attack in round {sighting.round}, {name} set", "batches of games"),
        )
        for name in games.sets
    }
    named = which_task(seen, cohort, seed=seed) if games.global_game else None
    return AttackResult(played, named, left_out)


def _largest_group(experiment: Experiment, sighting: Sighting, seed: int) -> tuple[ObservedRows, Cohort, int]:
    group = max(sighting.updates, key=lambda name: len(sighting.tasks[name]))
    problem = experiment.problem()
    ids = sighting.tasks[group]
    order = np.argsort(ids, kind="stable")
    cohort = Cohort(usable(experiment.data, problem.dtype).tasks, ids[order], problem.dtype)
    rows = {
        name: torch.from_numpy(np.ascontiguousarray(value[order])) for name, value in sighting.updates[group].items()
    }
    billboard = {name: torch.from_numpy(np.array(value)) for name, value in sighting.billboards[group].items()}
    client: Any = experiment.client
    seen, left_out = observe_rows(problem, client, billboard, rows, cohort, Key(seed, sighting.round))
    return seen, cohort, left_out


def refuse_protected(experiment: Experiment) -> None:
    """Refuse protected data: what an attack keeps is covered by no guarantee.

    Raises
    ------
    InputError
        They are declared protected.
    """
    if experiment.declared == "protected":
        raise InputError(
            "[attack] keeps what tasks sent before any noise of the server, which no guarantee covers, and these data "
            "are declared protected; attack a run on benchmark data with the same settings."
        )


def refuse_unattackable(experiment: Experiment, watch: Watch) -> None:
    """Refuse what cannot be attacked: other updates than meta-gradients, models without second derivatives.

    Also query sets where arrays start from zero.

    Raises
    ------
    InputError
        Says which, and what to do.
    """
    client: Any = experiment.client
    problem = experiment.problem()
    if not all(hasattr(client, name) for name in ("draw", "inner", "begin", "from_zero")):
        more = ", or set attack.during = false to record rows only" if watch.during else ""
        raise InputError(
            f"the attacks read meta-gradients, and the client {kebab(type(client).__name__)!r} sends something else, "
            f"or does not say how (draw, inner, begin, from_zero); use the client 'maml'{more}."
        )
    client.check(problem, experiment.tasks)  # its arrays are those of the model
    blind = [name for name in client.from_zero if problem.initial()[name].dim() > 1]
    if blind and ("query" in watch.sets or watch.global_game):
        raise InputError(
            "query sets are guessed with the billboard in place of the adapted model (equation 9), where weights that "
            f"start from zero ({', '.join(blind)}) let nothing through; that protects nobody from a better attack. "
            "Attack support sets: attack.sets = ['support'], attack.global_game = false."
        )
    refuse_once_differentiable_on(problem, experiment.tasks)


def _sums(sighting: Sighting | None) -> str:
    count = "" if sighting is None else f" (here {sum(map(len, sighting.tasks.values()))} tasks in all)"
    return (
        "with strategy.reply = 'sum' the server sees one clipped sum per node over all tasks that the node trained"
        f"{count}, so no task has a gradient of its own to attack, unless a node hosts one task only; set "
        "strategy.reply = 'rows' to attack rows."
    )


def episode_seed(run: Path) -> int:
    """Return the public seed from which the tasks of a run drew their episodes."""
    stored = read_config(run)["run"]
    return int(stored.get("reproduce", stored["seed"]))


def to_json(found: AttackResult, experiment: Experiment) -> dict[str, Any]:
    """Return what came out of one round as plain values, with the bound where there is one."""
    result: dict[str, Any] = {name: played.to_json() for name, played in found.played.items()}
    result["unusable"] = found.unusable
    if found.which_task is not None:
        result["which_task"] = found.which_task.to_json()
    if experiment.strategy.plan.at_node:
        result["auc_bound"] = auc_bound(experiment.resolve().noise_multiplier)
    return result


def keep(run: Path, found: dict[str, Any]) -> None:
    """Write the results of one round beside its sighting."""
    path = private_folder(run) / f"attack-{found['round']:06d}.json"
    write_bytes(path, (json.dumps(plain({"released": False, **found}), indent=2) + "\n").encode())


def show(run: Path, found: dict[str, Any], attacked: AttackResult) -> list[Path]:
    """Write scores and pictures of one round, and the page on all rounds whose results are there; return the files."""
    written = []
    if attacked.played:
        record_scores(attacked.played, run, found["round"])
        written = write_pictures(run, found["round"], attacked.played, found.get("auc_bound"))
    return [*written, write_attack_page(run)]
