"""Regenerates the pages of docs/ on noise that leaves inversion near chance while many learn, from their protocols."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedpriv.config import Config, apply, read_toml
from fedpriv.evidence import UNSEEN, Protocol, collect, fill_page, page_root, read_protocol
from fedpriv.scenarios import scenario
from fedpriv.scenarios.maml_attack.cells import Level
from fedpriv.scenarios.maml_attack.noise import (
    AREA,
    BOUNDS,
    GAMES,
    NONE,
    areas_table,
    confident,
    noise_table,
    noisy,
    plain_levels,
)
from fedpriv.scenarios.maml_attack.pictures import draw_noise

__all__ = ["main"]

_HERE = Path(__file__).parent
_SETS = ("query", "support")
_LOSS = BOUNDS[1]


_STUDIES = {"area": ("places", "tasks"), "many": ("places", "tasks", "settings")}
"""Keys that the protocol of each page has of its own."""


def _configs(protocol: Protocol) -> dict[tuple[str, str], Config]:
    changes = {**UNSEEN, **GAMES, "data.tasks": protocol.own["tasks"], **protocol.own.get("settings", {})}
    base = apply(read_toml(_HERE / f"{protocol.preset}.toml"), changes)
    return {NONE: base, **noisy(protocol, base)}


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
    return said


def main(root: Path | None = None) -> None:
    """Run what is missing, then write docs/evidence-noise-area.md and docs/evidence-noise-many.md."""
    root = page_root(root)
    for name, own in _STUDIES.items():
        _write(name, own, root)


def _write(name: str, own: tuple[str, ...], root: Path) -> None:
    protocol = read_protocol(_HERE / f"{name}-protocol.toml", own=own)
    runs = root / f"runs/evidence/maml-{name}"
    evidence = collect(_configs(protocol), protocol.report_seeds, build=scenario("maml-attack").build, out=runs)
    found = {seed: plain_levels(protocol, runs, seed) for seed in protocol.report_seeds}
    everywhere = {
        place: set.intersection(*(set(confident(levels[place], which)) for levels in found.values() for which in _SETS))
        for place in protocol.own["places"]
    }
    failed = [] if any(everywhere.values()) else ["no level is confident against both sets with both seeds"]
    text = fill_page(
        _HERE / f"evidence-noise-{name}.md.j2",
        protocol,
        evidence,
        failed,
        name=name,
        area=AREA,
        loss=_LOSS,
        everywhere={
            protocol.own["places"][place]["label"]: ", ".join(f"{level:g}" for level in sorted(levels))
            for place, levels in everywhere.items()
            if levels
        },
        near=_by_accuracy(protocol, found),
        tables={seed: (noise_table(protocol, levels), areas_table(protocol, levels)) for seed, levels in found.items()},
    )
    (root / f"docs/evidence-noise-{name}.md").write_text(text, encoding="utf-8")
    panels = {
        f"noise on the {place['label']}, seed {seed}": levels[key]
        for seed, levels in found.items()
        for key, place in protocol.own["places"].items()
    }
    draw_noise(panels, BOUNDS, root / f"docs/images/maml-noise-{name}.svg")


if __name__ == "__main__":
    main()
