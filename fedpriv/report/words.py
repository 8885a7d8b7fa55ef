"""Numbers and facts of a run in the words that figures and the report share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedpriv.report.reader import Run
from fedpriv.statistics import Interval, interval

__all__ = [
    "MODELS",
    "delta_text",
    "epsilon_text",
    "figure_words",
    "gains",
    "mean_interval",
    "measured_text",
    "not_protected",
    "number",
    "observer_text",
    "relation_text",
    "seconds_text",
]

MODELS = {"personal": "personal", "billboard": "billboard", "local_only": "local only"}

OBSERVERS = {
    "coalition": "a coalition of all other tasks, which pool everything they received",
    "public": "anyone who reads the published billboards",
    "server": "the server that receives the updates",
    "experimenter": "the experimenter, who owns the data of the simulation",
}


def number(value: float | None, digits: int = 4) -> str:
    """Write a number with ``digits`` significant digits; a dash if it is not known."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace(",", " ")
    return f"{value:.{digits}g}"


def measured_text(value: float | None, measure: str) -> str:
    """Write an accuracy in percent, another measure as a number; a dash if it is not known."""
    if value is None or not math.isfinite(value) or measure != "accuracy":
        return number(value)
    return f"{100 * value:.1f}%"


def delta_text(delta: float | None) -> str:
    """Write delta as people do: 1e-5, not 1e-05."""
    if delta is None:
        return "not stated"
    mantissa, _, exponent = f"{delta:.3g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def epsilon_text(epsilon: float | None) -> str:
    """Write an epsilon; rounded up, so that the text never claims more privacy than the accountant proved."""
    if epsilon is None:
        return "none"
    if math.isinf(epsilon):
        return "∞ (no bound)"
    if epsilon == 0:
        return "0"
    digits = max(2, 2 - math.floor(math.log10(abs(epsilon))))
    return f"{math.ceil(round(epsilon * 10**digits, 6)) / 10**digits:.{digits}f}"


def relation_text(relation: str) -> str:
    """Write a neighbouring relation; ``replace_one`` and ``replace-one`` read the same."""
    words = relation.replace("_", "-")
    return "add/remove" if words in ("add-remove", "add-or-remove", "add-or-remove-one") else words


def observer_text(observer: str) -> str:
    """Say who the observer is against whom the guarantee holds."""
    return OBSERVERS.get(observer.lower(), observer)


def seconds_text(seconds: float | None) -> str:
    """Write a duration."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.1f} min" if minutes < 120 else f"{hours:.1f} h"


def mean_interval(values: Sequence[float | None]) -> Interval | None:
    """Return the mean and 95% interval (Student's t) of the values that are known; None if none is."""
    known = [value for value in values if value is not None]
    return interval(known) if known else None


def gains(run: Run) -> list[float]:
    """Return what the personal model gains over local-only training, for every task that has both values.

    Positive is better: accuracy gained, or loss avoided when the run has no accuracy.
    """
    sign = 1.0 if run.measure == "accuracy" else -1.0
    pairs = zip(run.per_task("personal"), run.per_task("local_only"), strict=False)
    return [sign * (mine - alone) for mine, alone in pairs if mine is not None and alone is not None]


def not_protected(run: Run) -> list[str]:
    """Say what the guarantee does not cover, for the observer it names."""
    observer = run.summary.guarantee.observer.lower()
    said = []
    if observer != "server":
        said.append(
            "The server. It receives the clipped updates or their sums before the noise is added; noise that "
            "the server adds protects nobody from the server itself."
        )
    if observer == "coalition":
        said.append(
            "A personal model that leaves its task: it is made from that task's own data, and the guarantee "
            "for a task counts what all others receive, not the task's own model."
        )
    if observer == "public":
        said.append(
            "Personal models that are published: the guarantee is about the billboards; personal models stay "
            "on their tasks."
        )
    said.append(
        "The diagnostics on this page (losses, accuracies, values per task; not what is called published). They are "
        "computed without noise "
        "and are for the experimenter alone; publishing them, or this page, is not covered."
    )
    said.append(
        f"Several {run.summary.guarantee.unit}s together: epsilon is about one; a fact that a group shares "
        "is protected less, the larger the group."
    )
    return said


def figure_words(name: str, run: Run) -> tuple[str, str]:
    """Return heading and text alternative of a figure, with the numbers that a reader takes from it."""
    if name == "loss_and_epsilon":
        return "Loss and epsilon over the rounds", _course(run)
    shown = {model: found.mean for model in MODELS if (found := mean_interval(run.per_task(model)))}
    if name == "accuracies":
        stated = getattr(run.summary.diagnostics, run.measure)
        parts = [
            f"{MODELS[model]} {measured_text(value, run.measure)}"
            for model in MODELS
            if (value := shown.get(model, stated.get(model))) is not None
        ]
        return f"{run.measure.capitalize()} over the tasks", f"Mean test {run.measure}: {', '.join(parts)}."
    gained = gains(run)
    counts = [sum(v > 0 for v in gained), sum(v == 0 for v in gained), sum(v < 0 for v in gained)]
    return (
        "Who gains and who loses",
        f"Personal model against training alone, {len(gained)} tasks: {counts[0]} gain, {counts[1]} are "
        f"equal, {counts[2]} lose.",
    )


def _course(run: Run) -> str:
    parts = []
    for model, words in MODELS.items():
        rounds, values = run.curve("loss", model)
        if rounds:
            parts.append(
                f"{words} loss {number(values[0])} at round {rounds[0]}"
                + (f", {number(values[-1])} at round {rounds[-1]}" if rounds[-1] != rounds[0] else "")
            )
    rounds, values = run.epsilon_curve()
    if rounds:
        relation = relation_text(run.epsilon_relation)
        parts.append(f"epsilon ({relation}) {epsilon_text(values[-1])} at round {rounds[-1]}")
    said = "; ".join(parts) or "nothing was recorded"
    return f"{said[0].upper()}{said[1:]}."
