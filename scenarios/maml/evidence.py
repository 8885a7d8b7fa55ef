"""Regenerates the pages of docs/ on what MAML learns, from their protocols; finished runs are kept."""

from __future__ import annotations

from pathlib import Path

from fedpriv.config import apply, build_experiment, read_toml
from fedpriv.evidence import UNSEEN, collect, fill_page, page_root, read_protocol
from fedpriv.scenarios.maml.learning import held_out_gains, learning_table, no_gain

__all__ = ["main"]

_HERE = Path(__file__).parent
_COMMON = {**UNSEEN, "run.checkpoint_every": 10_000}
_STUDIES = {
    "maml": "protocol.toml",
    "maml-even": "even-protocol.toml",
    "maml-apart": "apart-protocol.toml",
    "maml-people": "people-protocol.toml",
}
"""The protocol of each page."""


def main(root: Path | None = None) -> None:
    """Run what is missing, then write the pages of docs/ on what MAML learns."""
    root = page_root(root)
    for name, protocol in _STUDIES.items():
        _write(name, _HERE / protocol, root)


def _write(page: str, place: Path, root: Path) -> None:
    protocol = read_protocol(place, own=("shots", "claimed"))
    wanted, claimed = (
        [(name, shots) for name, several in protocol.own[which].items() for shots in several]
        for which in ("shots", "claimed")
    )
    configs = {
        (name, f"{shots}-shot"): apply(read_toml(_HERE / f"{name}.toml"), {**_COMMON, "data.shots": shots})
        for name, shots in wanted
    }
    runs = root / "runs/evidence" / page
    evidence = collect(configs, protocol.report_seeds, build=build_experiment, out=runs)
    gains = {
        (name, shots): held_out_gains(runs / f"{name}-{shots}-shot/seed-{seed}" for seed in protocol.report_seeds)
        for name, shots in wanted
    }
    failed = list(no_gain({one: gains[one] for one in claimed}))
    learned = learning_table(gains, claimed)
    text = fill_page(_HERE / f"evidence-{page}.md.j2", protocol, evidence, failed, learned=learned)
    (root / f"docs/evidence-{page}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
