"""What people who took no part gain from a meta-model, from the run folders of several seeds."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from fedpriv.runs.finished import read_record
from fedpriv.statistics import Interval, interval

__all__ = ["held_out_gains", "learning_table", "no_gain"]

Gains = Mapping[tuple[str, int], Mapping[str, Interval]]
"""Of each data set and number of shots."""


def held_out_gains(folders: Iterable[Path]) -> dict[str, Interval]:
    """Return accuracies over seeds, and by how much the meta-model is ahead of each reference at its best rate."""
    held = [read_record(one).diagnostics.held_out for one in folders]
    found = {"billboard": interval([one["billboard"]["accuracy"] for one in held])}
    for start in ("scratch", "pretrained"):
        found[start] = interval([one[start]["best"]["accuracy"] for one in held])
        found[f"{start} gain"] = interval([one[start]["best"]["gain"] for one in held])
        found[f"{start} gain at one rate"] = interval([one[start]["gain"] for one in held])
    return found


def learning_table(gains: Gains, claimed: Collection[tuple[str, int]]) -> list[str]:
    """Return one row per data set and number of shots; ``claimed`` names some of them."""
    rows = [
        "| data, 5-way | seeds | meta-model | public start | gain | pre-trained | gain | gain at the client's own rate "
        "| claimed |",
        "| --- | ---: | --- | --- | --- | --- | --- | --- | --- |",
    ]
    columns = ("billboard", "scratch", "scratch gain", "pretrained", "pretrained gain", "pretrained gain at one rate")
    for (name, shots), one in gains.items():
        shown = [
            f"{name}, {shots}-shot",
            str(one["billboard"].count),
            *(str(one[column]) for column in columns),
            "yes" if (name, shots) in claimed else "",
        ]
        rows.append(f"| {' | '.join(shown)} |")
    return rows


def no_gain(gains: Gains) -> Iterator[str]:
    """Yield where a gain's interval does not lie above 0, in words."""
    for (name, shots), gain in gains.items():
        for start, words in (("scratch", "the public start"), ("pretrained", "a pre-trained network")):
            if gain[f"{start} gain"].low <= 0:
                yield f"{name}, {shots}-shot: the gain over {words} is {gain[f'{start} gain']}"
