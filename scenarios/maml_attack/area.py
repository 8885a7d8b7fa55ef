"""Regenerates the pages of docs/ on noise that leaves inversion near chance while many learn, from their protocols."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedpriv.config import Config, apply, read_toml
from fedpriv.evidence import Protocol, Study, collect, ending, opening, page_root, read_protocol
from fedpriv.scenarios import scenario
from fedpriv.scenarios.maml_attack.cells import Level
from fedpriv.scenarios.maml_attack.noise import AREA, BOUNDS, GAMES, areas_table, confident, noise_table, read_level
from fedpriv.scenarios.maml_attack.pictures import draw_noise

__all__ = ["main"]

_HERE = Path(__file__).parent
_COMMON = {"run.grid": "in-process", "run.checkpoint_every": 1000, "strategy.evaluate_every": 0}
_NONE = ("none", "0")
_SETS = ("query", "support")
_LOSS = BOUNDS[1]


@dataclass(frozen=True)
class _Study(Study):
    """Also which keys its protocol has of its own."""

    own: tuple[str, ...] = ("places", "tasks")


_OTHERWISE = """\
Otherwise as in [noise at four places](evidence-maml-noise.md). Levels are plain standard deviations, as in the paper:
**they promise nothing by themselves**. The observer is the server, who reads each task's row. Plus and minus is the 95%
interval over the people held out."""

_STUDIES = (
    _Study(
        "area-protocol.toml",
        "area",
        "A confident area of noise, with many tasks",
        "MNIST, 5-way 1-shot, 300 tasks, 60 rounds, 30 people held out.",
    ),
    _Study(
        "many-protocol.toml",
        "many",
        "A confident area of noise, with a thousand tasks",
        "MNIST, 5-way 1-shot, 1,000 tasks, 60 rounds, 100 people held out. With [300 tasks](evidence-noise-area.md)\n"
        "there was no such level. (1,299 tasks would have fitted into MNIST, not 1,000 as the protocol has it.)",
        ("places", "tasks", "settings"),
    ),
)


def _configs(protocol: Protocol) -> dict[tuple[str, str], Config]:
    changes = {**_COMMON, **GAMES, "data.tasks": protocol.own["tasks"], **protocol.own.get("settings", {})}
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


def _by_accuracy(protocol: Protocol, found: Mapping[int, Mapping[str, list[Level]]]) -> list[str]:
    """Return where the accuracy of the attack, which the paper draws, cannot be told from one half."""

    def near_half(one: Level) -> bool:
        rates = [one.games[which]["paper"]["accuracy"] for which in _SETS]
        return all(rate["low"] <= 0.5 <= rate["high"] for rate in rates)

    said = []
    for name, place in protocol.own["places"].items():
        near = [
            {
                one.level
                for one in levels[name][1:]
                if near_half(one) and levels[name][0].accuracy - one.accuracy <= _LOSS
            }
            for levels in found.values()
        ]
        both = ", ".join(f"{level:g}" for level in sorted(set.intersection(*near)))
        said.append(f"{place['label']}: {both or 'none of those tried'}")
    return [
        "Not decided before: the paper draws the accuracy of the attack and not its AUC. Levels at which, with both "
        f"seeds, it cannot be told from one half against either set, at a loss of at most {_LOSS}: {'; '.join(said)}."
    ]


def main(root: Path | None = None) -> None:
    """Run what is missing, then write docs/evidence-noise-area.md and docs/evidence-noise-many.md."""
    root = page_root(root)
    for study in _STUDIES:
        _write(study, root)


def _write(study: _Study, root: Path) -> None:
    protocol = read_protocol(_HERE / study.protocol, own=study.own)
    runs = root / f"runs/evidence/maml-{study.name}"
    evidence = collect(_configs(protocol), protocol.report_seeds, build=scenario("maml-attack").build, out=runs)
    found = {seed: _levels(protocol, runs, seed) for seed in protocol.report_seeds}
    everywhere = {
        name: set.intersection(*(set(confident(levels[name], which)) for levels in found.values() for which in _SETS))
        for name in protocol.own["places"]
    }
    failed = [] if any(everywhere.values()) else ["no level is confident against both sets with both seeds"]
    lines = [
        *opening(protocol, study.title, f"maml_attack/{study.protocol}"),
        study.explained,
        *_OTHERWISE.splitlines(),
        "",
        f"{AREA} It is no promise: another attack, even the cheap score, may see more.",
    ]
    lines += ["", f"![Attack against learning](images/maml-noise-{study.name}.svg)"]
    lines += [
        f"\n**{protocol.own['places'][name]['label'].capitalize()}: confident against both sets with both seeds at "
        f"{', '.join(f'{level:g}' for level in sorted(levels))}.**"
        for name, levels in everywhere.items()
        if levels
    ]
    lines += ["", *_by_accuracy(protocol, found)]
    for seed, levels in found.items():
        lines += ["", f"## Seed {seed}", "", *noise_table(protocol, levels), "", *areas_table(protocol, levels)]
    lines += ["", *ending(protocol, evidence, failed), ""]
    (root / f"docs/evidence-noise-{study.name}.md").write_text("\n".join(lines), encoding="utf-8")
    panels = {
        f"noise on the {place['label']}, seed {seed}": levels[name]
        for seed, levels in found.items()
        for name, place in protocol.own["places"].items()
    }
    draw_noise(panels, BOUNDS, root / f"docs/images/maml-noise-{study.name}.svg")


if __name__ == "__main__":
    main()
