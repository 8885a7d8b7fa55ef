"""``fedpriv attack``: attack the rounds of which a run folder holds rows, write results and pictures beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedpriv.cli.options import Assignments, DataDir, JsonFlag, path, say, say_json
from fedpriv.config import apply, build_experiment, parse_assignments, read_toml
from fedpriv.errors import InputError
from fedpriv.progress import Progress

__all__ = ["attack"]


def attack(
    run: Annotated[Path, typer.Argument(parser=path, metavar="RUN", help="A run folder whose rows were recorded.")],
    assignments: Assignments = None,
    data_dir: DataDir = None,
    as_json: JsonFlag = False,
) -> None:
    """Attack the rows that a run recorded, as a malicious server would: membership, reconstructions, pictures."""
    from fedpriv.adversary.recorded import read_sighting, recorded_rounds
    from fedpriv.adversary.results import as_text, results_of
    from fedpriv.adversary.watch import (
        Watch,
        attack_sighting,
        episode_seed,
        keep,
        refuse_protected,
        refuse_unattackable,
        show,
        to_json,
    )
    from fedpriv.experiment.people import people_of
    from fedpriv.report import write_report
    from fedpriv.runs import made_in_python
    from fedpriv.runs.finished import read_record, refuse_other_tasks
    from fedpriv.runs.people import refuse_other_people

    changes = parse_assignments(assignments or [])
    if not (run / "config.toml").exists():
        raise InputError(f"{run} is not a run folder: it holds no config.toml; give the --out of a run.")
    stored = read_toml(run / "config.toml")
    for key in changes:
        if not key.startswith("attack."):
            raise InputError(
                f"fedpriv attack works on what a run recorded, so only keys of [attack] may be set, got {key!r}; start "
                "a new run with other settings."
            )
    recorded = recorded_rounds(run)
    if made_in_python(stored):
        rows = "" if recorded else "holds no rows to attack and "
        raise InputError(
            f"{run} {rows}was made in Python, so no command can load its data; attack it there while it runs: "
            "fedpriv.adversary.with_watch(experiment, Watch()).run(out=...)."
        )
    config = apply(stored, changes)
    settings = Watch(**{**config.pop("attack", {}), "during": False})
    experiment = build_experiment({**config, "attack": {}}, data_dir)
    if (run / "summary.json").exists():
        refuse_other_tasks(run, read_record(run), experiment.tasks.fingerprint)
    refuse_other_people(run, people_of(experiment, config["data"]))
    refuse_protected(experiment)
    refuse_unattackable(experiment, settings)  # first: rows of these, too, could not be attacked
    if not recorded:
        raise InputError(
            f"{run} holds no rows to attack: a run records them only if it is asked to; run it again, into another "
            "--out, with --set attack.during=false --set strategy.reply=rows."
        )
    chosen = [number for number in recorded if settings.rounds is None or number in settings.rounds]
    if not chosen:
        known = ", ".join(map(str, recorded))
        raise InputError(f"attack.rounds names none of the recorded rounds ({known}); choose among these.")
    written: list[Path] = []
    with Progress(quiet=as_json) as progress:
        progress.begin("attack")
        for done, number in enumerate(chosen):
            progress(done, len(chosen))
            attacked = attack_sighting(experiment, read_sighting(run, number), settings, episode_seed(run))
            found = {"round": number, **to_json(attacked, experiment)}
            keep(run, found)
            *pictures, page = show(run, found, attacked)
            written += pictures
        progress(len(chosen), len(chosen))
    results = results_of(run)
    if as_json:
        say_json({**results, "pictures": [str(picture) for picture in written]})
    else:
        say("\n".join([as_text(results), *(f"wrote {file}" for file in [*written, page])]))
    if (run / "report.html").exists() and (run / "summary.json").exists():
        write_report([run])  # it says where the page on attacks is
