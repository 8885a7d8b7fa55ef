"""Regenerates the page of docs/ on data-starved tasks from its protocol; finished runs are not repeated."""

from __future__ import annotations

from pathlib import Path

from fedpriv.config import build_experiment
from fedpriv.evidence import claimed, collect, differences, fill_page, page_root, read_study, table_rows
from fedpriv.scenarios.lrs_ratings.compare import KINDS, compare
from fedpriv.scenarios.lrs_ratings.evidence import COMMON, rating_differences, side
from fedpriv.statistics import interval

__all__ = ["main"]

_HERE = Path(__file__).parent


def main(root: Path | None = None, data_dir: Path | None = None) -> None:
    """Run what is missing, then write docs/evidence-starved.md."""
    root = page_root(root)
    protocol, configs = read_study(_HERE / "starved-protocol.toml", COMMON)
    runs = root / "runs/evidence/lrs-starved"
    evidence = collect(configs, protocol.seeds, build=build_experiment, out=runs, data_dir=data_dir, measure=compare)
    found = differences(evidence, protocol.pairs, protocol.points)
    failed = [
        f"AMHT-LRS minus {side(protocol, one.second)[0]} "
        f"is {one.interval.mean:.4f} \u00b1 {one.interval.half or 0.0:.4f}"
        for one in claimed(protocol, found)
        if not one.below
    ]
    rows = [
        [
            label,
            *(str(interval(evidence.column("amht", "movielens", f"{part}.{kind}"))) for part in ("starved", "rmse")),
        ]
        for kind, label in KINDS.items()
    ]
    page = fill_page(
        _HERE / "evidence-starved.md.j2",
        protocol,
        evidence,
        failed,
        rows=table_rows(rows),
        differences=rating_differences(protocol, found),
    )
    (root / "docs/evidence-starved.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
