"""Regenerates the page of docs/ on the paper's Figure 8, asked again with more games, from its protocol."""

from __future__ import annotations

from pathlib import Path

from fedpriv.adversary import Outcome, read_scores
from fedpriv.evidence import Evidence, Protocol, collect, fill_page, page_root, read_study, table_rows
from fedpriv.scenarios import scenario
from fedpriv.scenarios.maml_attack.cells import judged, proportion, rate_text, trend
from fedpriv.statistics import Interval

__all__ = ["main"]

_HERE = Path(__file__).parent
_RUNS = "runs/evidence/maml-trends"
_COMMON = {
    "run.checkpoint_every": 1000,
    "strategy.evaluate_every": 0,
    "attack.together": 70,
    "attack.global_game": False,
    "attack.limit_mib": 1,
}
_ARM, _ROUNDS, _MIDDLE = "support", (1, 30, 60), 30


def _outcomes(protocol: Protocol, runs: Path, validation: int) -> dict[str, dict[int, Outcome]]:
    """Return by data set and round the results of inversion in the paper's game, games of all seeds together."""
    return {
        data: {
            number: judged(
                [read_scores(runs / f"{_ARM}-{data}" / f"seed-{seed}", number) for seed in seeds],
                _ARM,
                "inversion",
                "paper",
                validation,
            )
            for number in _ROUNDS
        }
        for data, seeds in protocol.seeds.items()
    }


def _differences(found: dict[str, dict[int, Outcome]]) -> dict[str, Interval]:
    """Return accuracy in the middle minus accuracy at the start and at the end, per data set."""
    return {
        f"{data}, round {_MIDDLE} - round {other}": trend([(proportion(rounds[_MIDDLE]), proportion(rounds[other]))])
        for data, rounds in found.items()
        for other in _ROUNDS
        if other != _MIDDLE
    }


def _verdict(one: Interval) -> str:
    if one.low > 0:
        return "yes"
    return "the other way round" if one.high < 0 else "not shown"


def _page(protocol: Protocol, evidence: Evidence, found: dict[str, dict[int, Outcome]]) -> str:
    differences = _differences(found)
    failed = [f"{name}: {one} ({_verdict(one)})" for name, one in differences.items() if one.low <= 0]
    rates = [(data, number, one) for data, rounds in found.items() for number, one in rounds.items()]
    return fill_page(
        _HERE / "evidence-figure8.md.j2",
        protocol,
        evidence,
        failed,
        rounds=table_rows(
            [data, f"{number}", rate_text(one.accuracy), rate_text(one.auc)] for data, number, one in rates
        ),
        differences=table_rows([name, str(one), _verdict(one)] for name, one in differences.items()),
    )


def main(root: Path | None = None) -> None:
    """Run what is missing, then write docs/evidence-figure8.md."""
    root = page_root(root)
    protocol, configs = read_study(_HERE / "trends-protocol.toml", _COMMON)
    evidence = collect(configs, protocol.seeds, build=scenario("maml-attack").build, out=root / _RUNS)
    validation = int(next(iter(configs.values()))["attack"]["validation"])
    found = _outcomes(protocol, root / _RUNS, validation)
    (root / "docs/evidence-figure8.md").write_text(_page(protocol, evidence, found), encoding="utf-8")


if __name__ == "__main__":
    main()
