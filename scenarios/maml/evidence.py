"""Regenerates the pages of docs/ on what MAML learns, from their protocols; finished runs are kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedpriv.config import apply, build_experiment, read_toml
from fedpriv.evidence import collect, ending, opening, page_root, read_protocol
from fedpriv.scenarios.maml.learning import held_out_gains, learning_table, no_gain

__all__ = ["main"]

_HERE = Path(__file__).parent
_COMMON = {"run.grid": "in-process", "run.checkpoint_every": 10_000, "strategy.evaluate_every": 0}

_PEOPLE = """\
From each start people take one step on their shots. The pre-trained network was trained on the pooled images of the
population and gets a new last layer. Both references take the one of five rates that is best for them on these very
people, which favours them. No noise, so no guarantee. Mean and 95% interval over fresh seeds, each with people and
held-out classes of its own."""


@dataclass(frozen=True)
class _Page:
    """One protocol and what is written about it."""

    protocol: str
    page: str
    runs: str
    title: str
    explained: str


_PAGES = (
    _Page(
        "protocol.toml",
        "evidence-maml.md",
        "maml",
        "What MAML learns with enough rounds",
        """\
People who took no part: of classes that nobody had (mnist-long: 4 of 10 digits, images turned by quarters), or other
writers (femnist).""",
    ),
    _Page(
        "even-protocol.toml",
        "evidence-maml-even.md",
        "maml-even",
        "What MAML learns where outputs start even",
        """\
The last layer starts from zero in every adaptation and is no part of the meta-model (`client.from_zero`): where classes
change their names from task to task, nothing but that can be right, and a last layer that is learned has to find it out
([the earlier protocol](evidence-maml.md)). With one step from there, the rate of the pre-trained network makes no
difference to which class wins.

People who took no part: of classes that nobody had (mnist-even: 4 of 10 digits; femnist-classes: 20 of 62 characters;
both turned by quarters), or other writers (femnist-even).""",
    ),
)


def main(root: Path | None = None) -> None:
    """Run what is missing, then write the pages of docs/ on what MAML learns."""
    root = page_root(root)
    for page in _PAGES:
        _write(page, root)


def _write(page: _Page, root: Path) -> None:
    protocol = read_protocol(_HERE / page.protocol, own=("shots", "claimed"))
    wanted, claimed = (
        [(name, shots) for name, several in protocol.own[which].items() for shots in several]
        for which in ("shots", "claimed")
    )
    configs = {
        (name, f"{shots}-shot"): apply(read_toml(_HERE / f"{name}.toml"), {**_COMMON, "data.shots": shots})
        for name, shots in wanted
    }
    runs = root / "runs/evidence" / page.runs
    evidence = collect(configs, protocol.report_seeds, build=build_experiment, out=runs)
    gains = {
        (name, shots): held_out_gains(runs / f"{name}-{shots}-shot/seed-{seed}" for seed in protocol.report_seeds)
        for name, shots in wanted
    }
    lines = [
        *opening(protocol, page.title, f"maml/{page.protocol}"),
        *page.explained.splitlines(),
        "",
        *_PEOPLE.splitlines(),
        "",
        *learning_table(gains, claimed),
        "",
        *ending(protocol, evidence, list(no_gain({one: gains[one] for one in claimed}))),
        "",
    ]
    (root / "docs" / page.page).write_text("\n".join(lines))


if __name__ == "__main__":
    main()
