"""Regenerates the page of docs/ on noise that leaves inversion near chance while many learn, from its protocol."""

from __future__ import annotations

from pathlib import Path

from fedpriv.config import Config, apply, read_toml
from fedpriv.evidence import Protocol, collect, ending, opening, page_root, read_protocol
from fedpriv.scenarios import scenario
from fedpriv.scenarios.maml_attack.cells import Level
from fedpriv.scenarios.maml_attack.noise import AREA, GAMES, areas_table, confident, noise_table, read_level

__all__ = ["main"]

_HERE = Path(__file__).parent
_RUNS = "runs/evidence/maml-area"
_COMMON = {"run.grid": "in-process", "run.checkpoint_every": 1000, "strategy.evaluate_every": 0}
_NONE = ("none", "0")
_SETS = ("query", "support")


def _configs(protocol: Protocol) -> dict[tuple[str, str], Config]:
    changes = {**_COMMON, **GAMES, "data.tasks": protocol.own["tasks"]}
    base = apply(read_toml(_HERE / f"{protocol.preset}.toml"), changes)
    noisy = {
        (name, f"{level:g}"): apply(base, {place["key"]: level})
        for name, place in protocol.own["places"].items()
        for level in place["levels"]
    }
    return {_NONE: base, **noisy}


def _levels(protocol: Protocol, runs: Path, seed: int) -> dict[str, list[Level]]:
    none = read_level(runs, _NONE[0], 0, seed)
    return {
        name: [none, *(read_level(runs, name, level, seed) for level in place["levels"])]
        for name, place in protocol.own["places"].items()
    }


def main(root: Path | None = None) -> None:
    """Run what is missing, then write docs/evidence-noise-area.md."""
    root = page_root(root)
    protocol = read_protocol(_HERE / "area-protocol.toml", own=("places", "tasks"))
    evidence = collect(_configs(protocol), protocol.report_seeds, build=scenario("maml-attack").build, out=root / _RUNS)
    found = {seed: _levels(protocol, root / _RUNS, seed) for seed in protocol.report_seeds}
    everywhere = [
        set.intersection(*(set(confident(levels[name], which)) for levels in found.values() for which in _SETS))
        for name in protocol.own["places"]
    ]
    failed = [] if any(everywhere) else ["no level is confident against both sets with both seeds"]
    lines = [
        *opening(protocol, "A confident area of noise, with many tasks", "maml_attack/area-protocol.toml"),
        *_EXPLAINED,
        "",
        f"{AREA} It is no promise: another attack, even the cheap score, may see more.",
    ]
    for seed, levels in found.items():
        lines += ["", f"## Seed {seed}", "", *noise_table(protocol, levels), "", *areas_table(protocol, levels)]
    lines += ["", *ending(protocol, evidence, failed), ""]
    (root / "docs/evidence-noise-area.md").write_text("\n".join(lines))


_EXPLAINED = """\
MNIST, 5-way 1-shot, 300 tasks, 60 rounds; otherwise as in [noise at four places](evidence-maml-noise.md). Levels are
plain standard deviations, as in the paper: **they promise nothing by themselves**. The observer is the server, who
reads each task's row. Held out are 30 people; plus and minus is the 95% interval over them.""".splitlines()


if __name__ == "__main__":
    main()
