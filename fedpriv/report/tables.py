"""The tables of the report, as rows of text: what was reached, what was released, what stays a diagnostic."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from fedpriv.report.reader import Run
from fedpriv.report.words import (
    MODELS,
    delta_text,
    epsilon_text,
    gains,
    mean_interval,
    measured_text,
    number,
    observer_text,
    relation_text,
    seconds_text,
)
from fedpriv.runs.record import ReleaseRecord

__all__ = [
    "Table",
    "comparison",
    "facts",
    "filled",
    "guarantee_rows",
    "headline",
    "key_numbers",
    "outputs",
    "published",
    "spread",
]

ALONE = "each run accounted alone"
MEASURED_WORDS = {
    "loss": "mean test loss of each kind of model",
    "accuracy": "mean test accuracy of each kind of model",
    "per_task": "values of every single task",
    "local_compute": "gradient evaluations on the tasks",
}


@dataclass(frozen=True)
class Table:
    """A table: caption, column heads, rows (the first cell heads its row), a note below."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def filled(
    columns: Sequence[str], rows: Sequence[tuple[str, ...]], empty: Container[str] = ("", "-", "–")
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return columns and rows without the columns in which no row has anything to say."""
    kept = [at for at in range(len(columns)) if any(row[at] not in empty for row in rows)]
    return tuple(columns[at] for at in kept), [tuple(row[at] for at in kept) for row in rows]


def key_numbers(run: Run) -> list[tuple[str, str]]:
    """Return the five numbers that a reader looks for first."""
    summary, stated = run.summary, run.summary.guarantee
    reached = getattr(summary.diagnostics, run.measure).get("personal")
    mechanism = ", mechanism only" if run.reproduction else ""
    found = [] if reached is None else [(f"Personal {run.measure}", measured_text(reached, run.measure))]
    return [
        *found,
        (f"Epsilon ({relation_text(stated.relation)}{mechanism})", _epsilon(run)),
        ("Delta", delta_text(stated.delta)),
        ("Tasks, rounds", f"{number(summary.num_tasks)}, {number(summary.rounds)}"),
        ("Time", seconds_text(summary.seconds.get("total"))),
    ]


def headline(run: Run) -> Table:
    """Return what each kind of model reached, with the local work that it cost."""
    found = run.summary.diagnostics
    rows = []
    for model, words in MODELS.items():
        if found.loss.get(model) is None and found.accuracy.get(model) is None:
            continue  # a model that this run does not have
        interval, spread = mean_interval(run.per_task(model)), "–"
        if interval and interval.half is not None:
            spread = " to ".join(measured_text(end, run.measure) for end in (interval.low, interval.high))
        cells = [words, number(found.loss.get(model)), spread, number(found.local_compute.get(model))]
        if run.measure == "accuracy":
            cells.insert(1, measured_text(found.accuracy.get(model), "accuracy"))
        cells[-2:-2] = [number(means.get(model)) for means in found.metrics.values()]
        rows.append(tuple(cells))
    columns = ["model", "test loss", *found.metrics, f"95% interval, {run.measure}", "gradient evaluations"]
    if run.measure == "accuracy":
        columns.insert(1, "test accuracy")
    heading, lines = filled(columns, rows)
    caption = "What the models reach, mean over tasks (diagnostics, not released)"
    return Table(caption, heading, tuple(lines), _gain_note(run))


def spread(run: Run) -> Table | None:
    """Return how each measure differs over tasks; None where that is not known, or stays in ``private/``."""
    rows = [
        (f"{measure}, {MODELS.get(model, model)}", number(one.get("worst_decile")), number(one.get("deviation")))
        for measure, models in run.summary.diagnostics.spread.items()
        for model, one in models.items()
    ]
    if not rows:
        return None
    columns, lines = filled(("measure", "mean of the worst tenth of the tasks", "standard deviation over tasks"), rows)
    return Table("How far tasks differ (diagnostics, not released)", columns, tuple(lines))


def published(run: Run) -> Table | None:
    """Return the means that were released, None if there are none."""
    metrics = run.summary.metrics
    if metrics is None:
        return None
    names = list(dict.fromkeys(name for one in metrics.means for name in one.values))
    rows = [
        (
            f"round {one.round}",
            *(f"{number(one.values.get(name))} ± {number(one.noise.get(name), 2)}" for name in names),
        )
        for one in metrics.means
    ]
    alone = metrics.alone
    note = (
        f"Beside each mean the standard deviation of its noise. These metrics alone cost epsilon "
        f"{epsilon_text(alone.epsilon)} at delta {delta_text(alone.delta)} ({relation_text(alone.relation)}, against "
        f"the {alone.observer}); the guarantee below covers them."
    )
    columns = ("after", *(name.replace(".", " ") for name in names))
    return Table("Published, with noise: means over all tasks", columns, tuple(rows), note)


def guarantee_rows(run: Run) -> list[tuple[str, str]]:
    """Return the facts of the guarantee beside its sentence."""
    stated = run.summary.guarantee
    relation = relation_text(stated.relation)
    rows = [
        ("Who is protected", f"one {stated.unit}, with all of its data"),
        ("Against whom", observer_text(stated.observer)),
        ("What it covers", stated.output or "–"),
        ("Notion", stated.notion),
        (f"Epsilon ({relation})", epsilon_text(stated.epsilon)),
    ]
    other = run.summary.other_guarantee
    if other is not None:
        label = f"Epsilon of the {other.output or 'rest'} ({relation_text(other.relation)})"
        rows.append((label, f"{epsilon_text(other.epsilon)}, against {observer_text(other.observer)}"))
    if stated.epsilon_replace_one is not None and relation != "replace-one":
        rows.append(("Epsilon (replace-one)", epsilon_text(stated.epsilon_replace_one)))
    rows += [(f"Epsilon ({one.relation} of one person)", epsilon_text(one.epsilon)) for one in run.summary.people]
    rows += [
        ("Delta", delta_text(stated.delta)),
        ("Neighbouring relation", relation),
        ("Accountant", stated.accountant or "–"),
        ("Sampling", stated.sampling or "–"),
        ("Noise multiplier", number(stated.noise_multiplier)),
        ("Clipping norm", number(stated.clipping_norm)),
        ("Releases accounted", number(stated.rounds)),
        ("Tasks", number(stated.num_tasks)),
        ("Ledger", _ledger(run)),
    ]
    return [row for row in rows if row[1] != "–"]


def outputs(run: Run) -> Table:
    """Return everything that the run released or stored: every kind of release, every diagnostic."""
    kinds: dict[tuple[str, str, str], list[ReleaseRecord]] = {}
    for release in run.summary.releases:
        name = "published metrics" if release.measures else release.group or "update sum"
        kinds.setdefault((name, release.mechanism, release.sampling_name or "–"), []).append(release)
    rows = []
    for (name, mechanism, sampling), made in kinds.items():
        rate = _range(release.rate for release in made)
        noise = _range(release.noise_multiplier for release in made)
        norm = _range(release.clipping_norm for release in made)
        rows.append(
            (
                f"release: {name}",
                f"{len(made)} ({_rounds(made)})",
                mechanism,
                f"{noise} × {norm}",
                sampling if rate == "–" or sampling == "min-separation" else f"{sampling}, rate {rate}",
                _ledger(run),
            )
        )
    found = run.summary.diagnostics
    for measured, words in MEASURED_WORDS.items():
        held = getattr(found, measured)
        known = [key for key, value in held.items() if value is not None and value != []]
        if known:
            label = ", ".join(MODELS.get(key, key) for key in known)
            rows.append((f"diagnostic: {words}", label, "none", "none", "–", "not released"))
    if found.metrics:
        of = ", ".join(found.metrics)
        rows.append(("diagnostic: means of further metrics", of, "none", "none", "–", "not released"))
    if found.tasks_in is not None:
        rows.append(("diagnostic: values of every single task", found.tasks_in, "none", "none", "–", "not released"))
    evaluations = sum(line.kind == "evaluation" for line in run.metrics)
    if evaluations:
        rows.append(("diagnostic: evaluations during training", str(evaluations), "none", "none", "–", "not released"))
    columns = (
        "output",
        "how many / of what",
        "mechanism",
        "noise multiplier × clipping norm",
        "sampling",
        "charged to",
    )
    note = "" if kinds else "This run made no release."
    heading, lines = filled(columns, rows)
    return Table("What is a release and what is a diagnostic", heading, tuple(lines), note)


def facts(run: Run) -> list[tuple[str, str]]:
    """Return timing, engine, seeds and versions."""
    summary = run.summary
    rows = [(f"Time, {name.replace('_', ' ')}", seconds_text(value)) for name, value in summary.seconds.items()]
    rows += [
        (
            "Speed",
            "–" if summary.tasks_per_second is None else f"{number(summary.tasks_per_second)} tasks per second",
        ),
        ("Rounds", number(summary.rounds)),
        ("Tasks", number(summary.num_tasks)),
        ("Grid", summary.grid or "–"),
        ("Engine", summary.engine or "–"),
        (
            "Seed (partition, initialisation, mini-batches)",
            "–" if summary.seed is None else str(summary.seed),
        ),
        (
            "Noise and sampling coins",
            f"fixed by --reproduce {summary.reproduce}"
            if summary.reproduce is not None
            else "fixed (reproduction)"
            if run.reproduction
            else "operating system's entropy",
        ),
    ]
    rows = [row for row in rows if row[1] != "–"]
    return rows + [(f"Version of {name}", str(value)) for name, value in summary.versions.items()]


def comparison(runs: Sequence[Run], names: Sequence[str]) -> Table:
    """Return several runs side by side."""
    measures = {run.measure for run in runs}
    rows = []
    for name, run in zip(names, runs, strict=True):
        found, stated = getattr(run.summary.diagnostics, run.measure), run.summary.guarantee
        unit = f" ({run.measure})" if len(measures) > 1 else ""
        rows.append(
            (
                name,
                run.summary.what,
                *(measured_text(found.get(model), run.measure) + unit for model in MODELS),
                f"{_epsilon(run)} ({relation_text(stated.relation)})",
                epsilon_text(stated.epsilon_replace_one) if stated.epsilon_replace_one is not None else "–",
                delta_text(stated.delta),
                "reproduction, no guarantee" if run.reproduction else stated.notion,
                stated.observer,
            )
        )
    measure = measures.copy().pop() if len(measures) == 1 else "result"
    models = [f"{words}, {measure}" for words in MODELS.values()]
    columns = (
        "run",
        "scenario",
        *models,
        "epsilon",
        "epsilon, replace-one",
        "delta",
        "guarantee",
        "observer",
    )
    notes = ["Model columns are diagnostics, not released."]
    kinds = {
        (
            run.summary.guarantee.notion,
            run.summary.guarantee.relation,
            run.summary.guarantee.observer,
            run.summary.guarantee.delta,
            run.summary.guarantee.unit,
        )
        for run in runs
    }
    if len(kinds) > 1:
        notes.append(
            "The runs differ in notion, relation, observer, unit or delta: their epsilons do not compare directly."
        )
    if any(run.benchmark for run in runs):
        notes.append(f"Benchmark data: {ALONE}; the table says nothing about all runs together.")
    heading, lines = filled(columns, rows)
    return Table("The runs side by side", heading, tuple(lines), " ".join(notes))


def _epsilon(run: Run) -> str:
    """Write epsilon; two of them where billboards and personal models differ."""
    stated, other = run.summary.guarantee, run.summary.other_guarantee
    if other is None:
        return epsilon_text(stated.epsilon)
    return f"{epsilon_text(stated.epsilon)} {stated.output}, {epsilon_text(other.epsilon)} {other.output}"


def _gain_note(run: Run) -> str:
    gained = gains(run)
    if not gained:
        return ""
    worse = sum(value < 0 for value in gained)
    better = sum(value > 0 for value in gained)
    return (
        f"Against training alone, the personal model is better for {better} of {len(gained)} tasks, "
        f"equal for {len(gained) - better - worse}, worse for {worse}."
    )


def _ledger(run: Run) -> str:
    ledger = run.summary.ledger
    parts = [part for part in (ledger.population, ledger.path) if part]
    if ledger.declared:
        parts.append(f"{ledger.declared} data" + (f": {ALONE}" if run.benchmark else ""))
    return ", ".join(parts) or "no ledger named"


def _range(values: Iterable[float | None]) -> str:
    known = sorted({value for value in values if value is not None})
    if not known:
        return "–"
    return number(known[0]) if len(known) == 1 else f"{number(known[0])} to {number(known[-1])}"


def _rounds(made: Sequence[ReleaseRecord]) -> str:
    first, last = min(release.round for release in made), max(release.round for release in made)
    return f"round {first}" if first == last else f"rounds {first} to {last}"
