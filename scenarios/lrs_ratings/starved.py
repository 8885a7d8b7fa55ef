"""Regenerates the page of docs/ on data-starved tasks from its protocol; finished runs are not repeated."""

from __future__ import annotations

from pathlib import Path

from fedpriv.config import build_experiment, read_toml
from fedpriv.evidence import (
    claimed,
    collect,
    configurations,
    differences,
    ending,
    opening,
    page_root,
    read_protocol,
)
from fedpriv.scenarios.lrs_ratings.compare import KINDS, compare
from fedpriv.scenarios.lrs_ratings.evidence import COMMON, rating_differences, side
from fedpriv.statistics import interval

__all__ = ["main"]

_HERE = Path(__file__).parent
_EXPLAINED = """\
Groups of people of MovieLens 100K, as on [the page of ratings](evidence-ratings.md): a group's mean rating of a film
is the target, features come from people who were declared public, and a seed divides each group's ratings anew.
Data-starved are groups with fewer than 100 ratings. What a kind of model has to choose, validation ratings choose,
seed by seed; the settings of AMHT-LRS are those of its preset. No noise, so no guarantee.

Seeds divide the same ratings: the interval says how sure a difference is for these people only.""".splitlines()


def main(root: Path | None = None, data_dir: Path | None = None) -> None:
    """Run what is missing, then write docs/evidence-starved.md."""
    root = page_root(root)
    protocol = read_protocol(_HERE / "starved-protocol.toml")
    configs = configurations(protocol, lambda name: read_toml(_HERE / f"{name}.toml"), COMMON)
    runs = root / "runs/evidence/lrs-starved"
    evidence = collect(configs, protocol.seeds, build=build_experiment, out=runs, data_dir=data_dir, measure=compare)
    found = differences(evidence, protocol.pairs, protocol.points)
    failed = [
        f"AMHT-LRS minus {side(protocol, one.second)[0]} "
        f"is {one.interval.mean:.4f} \u00b1 {one.interval.half or 0.0:.4f}"
        for one in claimed(protocol, found)
        if not one.below
    ]
    rows = ["| model | data-starved tasks | all test ratings |", "| --- | --- | --- |"]
    for kind, label in KINDS.items():
        parts = (interval(evidence.column("amht", "movielens", f"{part}.{kind}")) for part in ("starved", "rmse"))
        rows.append(f"| {label} | {' | '.join(str(one) for one in parts)} |")
    lines = [
        *opening(protocol, "Ratings: groups with few data, 80 divisions", "lrs_ratings/starved-protocol.toml"),
        *_EXPLAINED,
        "",
        *rows,
        "",
        *rating_differences(protocol, found),
        "",
        *ending(protocol, evidence, failed),
        "",
    ]
    (root / "docs/evidence-starved.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
