"""Regenerates the page of docs/ on what MAML learns with enough rounds, from its protocol; finished runs are kept."""

from __future__ import annotations

from pathlib import Path

from fedpriv.config import apply, build_experiment, read_toml
from fedpriv.evidence import collect, ending, opening, page_root, read_protocol
from fedpriv.scenarios.maml.learning import held_out_gains, learning_table, no_gain

__all__ = ["main"]

_HERE = Path(__file__).parent
_RUNS = "runs/evidence/maml"
_COMMON = {"run.grid": "in-process", "run.checkpoint_every": 10_000, "strategy.evaluate_every": 0}

_EXPLAINED = """\
People who took no part: of classes that nobody had (mnist-long: 4 of 10 digits, images turned by quarters), or other
writers (femnist). From each start they take one step on their shots. The pre-trained network was trained on the pooled
images of the population and gets a new last layer. Both references take the one of five rates that is best for them on
these very people, which favours them. No noise, so no guarantee. Mean and 95% interval over fresh seeds, each with
people and held-out classes of its own.""".splitlines()


def main(root: Path | None = None) -> None:
    """Run what is missing, then write docs/evidence-maml.md."""
    root = page_root(root)
    protocol = read_protocol(_HERE / "protocol.toml", own=("shots", "claimed"))
    wanted, claimed = (
        [(name, shots) for name, several in protocol.own[which].items() for shots in several]
        for which in ("shots", "claimed")
    )
    configs = {
        (name, f"{shots}-shot"): apply(read_toml(_HERE / f"{name}.toml"), {**_COMMON, "data.shots": shots})
        for name, shots in wanted
    }
    runs = root / _RUNS
    evidence = collect(configs, protocol.report_seeds, build=build_experiment, out=runs)
    gains = {
        (name, shots): held_out_gains(runs / f"{name}-{shots}-shot/seed-{seed}" for seed in protocol.report_seeds)
        for name, shots in wanted
    }
    lines = [
        *opening(protocol, "What MAML learns with enough rounds", "maml/protocol.toml"),
        *_EXPLAINED,
        "",
        *learning_table(gains, claimed),
        "",
        *ending(protocol, evidence, list(no_gain({one: gains[one] for one in claimed}))),
        "",
    ]
    (root / "docs/evidence-maml.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
