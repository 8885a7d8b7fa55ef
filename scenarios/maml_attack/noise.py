"""Regenerates the page and figure of docs/ on noise at four places and on what MAML learns, from their protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from fedpriv.adversary import Rate, auc_bound, results_of
from fedpriv.config import Config, apply, build_experiment, read_toml
from fedpriv.evidence import UNSEEN, Evidence, Protocol, collect, fill_page, page_root, read_protocol, table_rows
from fedpriv.runs.finished import read_record
from fedpriv.scenarios import scenario
from fedpriv.scenarios.maml.learning import held_out_gains, learning_table, no_gain
from fedpriv.scenarios.maml_attack.cells import Level, rate_text
from fedpriv.scenarios.maml_attack.pictures import draw_noise
from fedpriv.statistics import Interval

__all__ = [
    "AREA",
    "BOUNDS",
    "GAMES",
    "NONE",
    "areas_table",
    "confident",
    "main",
    "noise_table",
    "noisy",
    "plain_levels",
]

_HERE = Path(__file__).parent
_RUNS = "runs/evidence/maml-noise"
GAMES = {
    "data.tasks": 80,
    "attack.rounds": [1],
    "attack.games": 50,
    "attack.validation": 15,
    "attack.together": 65,
    "attack.global_game": False,
    "attack.limit_mib": 1,
}
_CLAIMED = ("femnist", "mnist")
_SEEDS = {"fashion": 3}
BOUNDS = _CHANCE, _LOSS = 0.6, 0.05
"""The largest AUC and the largest loss of held-out accuracy of a confident area."""
NONE = ("none", "0")
"""Arm and point of the run without noise."""
AREA = (
    f"Confident area: levels with an AUC of {_CHANCE} or less in the paper's game and a held-out accuracy at most "
    f"{_LOSS} below that without noise."
)


def _read() -> tuple[Protocol, dict[str, dict[tuple[str, str], Config]]]:
    protocol = read_protocol(_HERE / "noise-protocol.toml", own=("learning", "places", "calibrated", "wider"))
    maml = {name: read_toml(_HERE.parent / "maml" / f"{name}.toml") for name in protocol.own["learning"]}
    learning = {
        (name, f"{shots}-shot"): apply(maml[name], {**UNSEEN, "data.shots": shots})
        for name, several in protocol.own["learning"].items()
        for shots in several
    }
    base = apply(read_toml(_HERE / "mnist.toml"), {**UNSEEN, **GAMES})
    noise = {NONE: base}
    for kind in ("places", "calibrated"):
        noise |= noisy(protocol, base, kind)
    return protocol, {"learning": learning, "noise": noise}


def noisy(protocol: Protocol, base: Config, kind: str = "places") -> dict[tuple[str, str], Config]:
    """Return the configurations with noise at the places of one kind, plain or calibrated."""
    return {
        (_arm(kind, name), f"{level:g}"): apply(base, {**place.get("settings", {}), place["key"]: level})
        for name, place in protocol.own[kind].items()
        for level in _tried(protocol, name, kind)
    }


def _tried(protocol: Protocol, name: str, kind: str) -> tuple[float, ...]:
    """Return the levels of a place; some plain places have wider ones, that were added later."""
    wider = protocol.own.get("wider", {}) if kind == "places" else {}
    return (*protocol.own[kind][name]["levels"], *wider.get(name, ()))


def _arm(kind: str, name: str) -> str:
    return name if kind == "places" else f"{name}-calibrated"


def _bound(place: str, level: float) -> float:
    """Return the bound on the AUC: the multiplier is the noise over half of what replacing can move."""
    return auc_bound(2 * level / 28.0) if place == "pixels" else auc_bound(level)


def read_level(runs: Path, place: str, level: float, seed: int, bound: float = 1.0) -> Level:
    """Return the results of one run: ``place`` and level name its folder."""
    run = runs / f"{place}-{level:g}" / f"seed-{seed}"
    held = read_record(run).diagnostics.held_out["billboard"]
    found = results_of(run)
    games = {
        name: {**found[name]["inversion"], "cheap": found[name]["score"]["paper"]} for name in ("query", "support")
    }
    return Level(place, level, held["accuracy"], held["half"], games, bound)


def plain_levels(protocol: Protocol, runs: Path, seed: int) -> dict[str, list[Level]]:
    """Return the results of the runs with one seed, by plain place; the first level is no noise."""
    none = read_level(runs, NONE[0], 0, seed)
    return {
        name: [none, *(read_level(runs, name, level, seed) for level in _tried(protocol, name, "places"))]
        for name in protocol.own["places"]
    }


def _levels(protocol: Protocol, runs: Path) -> dict[str, list[Level]]:
    seed = protocol.report_seeds[0]
    calibrated = {
        _arm("calibrated", name): [
            read_level(runs, _arm("calibrated", name), level, seed, _bound(name, level)) for level in place["levels"]
        ]
        for name, place in protocol.own["calibrated"].items()
    }
    return plain_levels(protocol, runs, seed) | calibrated


def confident(levels: list[Level], which: str) -> list[float]:
    """Return the levels of a place at which the attack is near chance while learning holds; the first is no noise."""
    least = levels[0].accuracy - _LOSS
    return [
        one.level
        for one in levels[1:]
        if one.games[which]["paper"]["auc"]["value"] <= _CHANCE and one.accuracy >= least
    ]


def noise_table(protocol: Protocol, levels: Mapping[str, list[Level]], kind: str = "places") -> list[str]:
    """Return one row per level and set of the places of one kind, plain or calibrated."""
    rows = [
        "| noise on | level | held-out accuracy | set | accuracy of the attack | AUC | AUC, same class "
        "| AUC, cheap score | bound |",
        "| --- | ---: | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, place in protocol.own[kind].items():
        for one in levels[_arm(kind, name)]:
            for which, games in one.games.items():
                bounded = which in place.get("bounds", ())
                paper = games["paper"]
                rates = (paper["accuracy"], paper["auc"], games["controlled"]["auc"], games["cheap"]["auc"])
                shown = [
                    place["label"],
                    f"{one.level:g}",
                    f"{one.accuracy:.3f} ± {one.half:.3f}",
                    which,
                    *(rate_text(Rate(**rate)) for rate in rates),
                    f"{one.bound:.3f}" if bounded else "none",
                ]
                rows += table_rows([shown])
    return rows


def _failed(
    protocol: Protocol, levels: Mapping[str, list[Level]], gains: Mapping[tuple[str, int], dict[str, Interval]]
) -> Iterator[str]:
    yield from no_gain({one: gain for one, gain in gains.items() if one[0] in _CLAIMED})
    for name, place in protocol.own["calibrated"].items():
        for one in levels[_arm("calibrated", name)]:
            for which in place["bounds"]:
                for rule in ("paper", "controlled", "cheap"):
                    low = one.games[which][rule]["auc"]["low"]
                    if low > one.bound:
                        yield f"{place['label']} {one.level:g}: AUC against the {which} set above {one.bound:.3f}"
    decided = {name: levels[name][: 1 + len(place["levels"])] for name, place in protocol.own["places"].items()}
    if not any(confident(several, which) for several in decided.values() for which in ("query", "support")):
        yield "no place has a confident area at the levels that were decided before"


def areas_table(protocol: Protocol, levels: Mapping[str, list[Level]]) -> list[str]:
    """Return which levels of each place are confident, against either set."""
    rows = ["| noise on | against the query set | against the support set |", "| --- | --- | --- |"]
    for name, place in protocol.own["places"].items():
        found = [confident(levels[name], which) for which in ("query", "support")]
        words = [", ".join(f"{level:g}" for level in one) or "none of those tried" for one in found]
        rows.append(f"| {place['label']} | {words[0]} | {words[1]} |")
    return rows


def _page(
    protocol: Protocol,
    evidence: Evidence,
    levels: Mapping[str, list[Level]],
    gains: Mapping[tuple[str, int], dict[str, Interval]],
) -> str:
    return fill_page(
        _HERE / "evidence-maml-noise.md.j2",
        protocol,
        evidence,
        list(_failed(protocol, levels, gains)),
        learned=learning_table(gains, [one for one in gains if one[0] in _CLAIMED]),
        places=noise_table(protocol, levels),
        area=AREA,
        areas=areas_table(protocol, levels),
        calibrated=noise_table(protocol, levels, "calibrated"),
    )


def main(root: Path | None = None) -> None:
    """Run what is missing, then write docs/evidence-maml-noise.md and its figure."""
    root = page_root(root)
    protocol, configs = _read()
    runs = root / _RUNS
    first = {point: protocol.report_seeds[:1] for _, point in configs["noise"]}
    parts = [collect(configs["noise"], first, build=scenario("maml-attack").build, out=runs)]
    for name in protocol.own["learning"]:
        mine = {key: config for key, config in configs["learning"].items() if key[0] == name}
        parts.append(collect(mine, protocol.report_seeds[: _SEEDS.get(name)], build=build_experiment, out=runs))
    evidence = Evidence({}, {}, sum(part.seconds for part in parts), parts[0].versions)
    levels = _levels(protocol, runs)
    gains = {
        (name, shots): held_out_gains(
            runs / f"{name}-{shots}-shot/seed-{seed}" for seed in protocol.report_seeds[: _SEEDS.get(name)]
        )
        for name, several in protocol.own["learning"].items()
        for shots in several
    }
    (root / "docs/evidence-maml-noise.md").write_text(_page(protocol, evidence, levels, gains), encoding="utf-8")
    panels = {f"noise on the {place['label']}": levels[name] for name, place in protocol.own["places"].items()}
    draw_noise(panels, BOUNDS, root / "docs/images/maml-noise.svg")


if __name__ == "__main__":
    main()
