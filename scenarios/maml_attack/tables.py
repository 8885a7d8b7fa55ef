"""Regenerates the page and figures of docs/ on Tables I and II, from their protocol; finished runs are not repeated."""

from __future__ import annotations

from pathlib import Path

from fedpriv.adversary import Outcome, read_scores
from fedpriv.evidence import Configs, Evidence, Protocol, collect, fill_page, page_root, read_study, table_rows
from fedpriv.scenarios import scenario
from fedpriv.scenarios.maml_attack.cells import Cell, judged, proportion, rate_text, read_cells, trend
from fedpriv.scenarios.maml_attack.pictures import draw_cells, draw_epochs
from fedpriv.statistics import Interval

__all__ = ["main"]

_HERE = Path(__file__).parent
_RUNS = "runs/evidence/maml-attack"
_COMMON = {
    "run.checkpoint_every": 1000,
    "strategy.evaluate_every": 0,
    "attack.games": 50,
    "attack.validation": 20,
    "attack.together": 70,
    "attack.global_game": False,
    "attack.limit_mib": 1,  # rows are attacked inside the round, and need not be kept
}
_DATA = ("mnist", "fashion")
_ROUNDS = {"query": 1, "support": 30}
_EPOCHS = (1, 30, 60)
_TARGETS = {"query": 0.95, "support": 0.85}

Epochs = dict[tuple[str, str, int], Outcome]
"""By set, data and round, inversion in the paper's game."""


def _read() -> tuple[Protocol, Configs]:
    return read_study(_HERE / "tables-protocol.toml", _COMMON, ("paper",))


def _cells(protocol: Protocol, configs: Configs, runs: Path) -> tuple[list[Cell], Epochs]:
    def folders(arm: str, point: str) -> list[Path]:
        return [runs / f"{arm}-{point}" / f"seed-{seed}" for seed in protocol.seeds[point]]

    def validation(arm: str, point: str) -> int:
        return int(configs[arm, point]["attack"]["validation"])

    cells = read_cells(folders, protocol.own["paper"], _ROUNDS, validation)
    epochs: Epochs = {}
    for which in _ROUNDS:
        for data in _DATA:
            point = f"{data}-epochs"
            for number in _EPOCHS:
                scores = [read_scores(run, number) for run in folders(which, point)]
                epochs[which, data, number] = judged(scores, which, "inversion", "paper", validation(which, point))
    return cells, epochs


def _trends(cells: list[Cell], epochs: Epochs) -> dict[str, tuple[Interval, bool]]:
    """Return the differences that the protocol names, and whether they are as it says."""
    at = {(cell.which, cell.data, cell.ways, cell.shots): proportion(cell.found["paper"]) for cell in cells}
    ways = [(at[w, d, 7, s], at[w, d, 3, s]) for w in _ROUNDS for d in _DATA for s in (1, 2, 3)]
    shots = [(at[w, d, n, 3], at[w, d, n, 1]) for w in _ROUNDS for d in _DATA for n in (3, 5, 7)]
    found: dict[str, tuple[Interval, bool]] = {}
    flat, falls = trend(ways), trend(shots)
    found["figure 5: 7 ways - 3 ways, mean of 12 pairs; flat within 0.1"] = flat, flat.low > -0.1 and flat.high < 0.1
    found["figure 6: 3 shots - 1 shot, mean of 12 pairs; falls"] = falls, falls.high < 0

    def between(which: str, data: str, first: int, second: int) -> None:
        one = trend([(proportion(epochs[which, data, first]), proportion(epochs[which, data, second]))])
        figure = {"query": 7, "support": 8}[which]
        found[f"figure {figure}: {which} set, {data}, round {first} - round {second}; above 0"] = one, one.low > 0

    for data in _DATA:
        between("query", data, 1, 60)
    for data in _DATA:
        between("support", data, 30, 1)
        between("support", data, 30, 60)
    return found


def _main_table(cells: list[Cell]) -> list[str]:
    rows = []
    for cell in cells:
        if (cell.ways, cell.shots) == (5, 1):
            for rule, one in cell.found.items():
                paper = f"{cell.paper_accuracy:.2f}" if rule == "paper" else ""
                shown = [
                    rate_text(one.accuracy),
                    rate_text(one.auc),
                    rate_text(one.tpr_at_low_fpr),
                    rate_text(cell.cheap[rule].auc),
                ]
                name = "the paper's" if rule == "paper" else "controlled"
                rows.append([cell.data, cell.which, name, *shown, paper])
    return table_rows(rows)


def _all_table(cells: list[Cell]) -> list[str]:
    rows = []
    for cell in cells:
        ours, other = cell.found["paper"], cell.found["controlled"]
        held = cell.held_out
        rows.append(
            [
                cell.which,
                cell.data,
                f"{cell.ways}-{cell.shots}",
                rate_text(ours.accuracy),
                f"{ours.recall.value:.2f}/{ours.false_positives.value:.2f}",
                f"{cell.paper_accuracy:.2f}",
                f"{cell.paper[0] / 50:.2f}/{cell.paper[1] / 50:.2f}",
                f"{cell.accuracy - cell.paper_accuracy:+.3f}",
                f"{cell.p:.2g}",
                f"{ours.auc.value:.3f}",
                rate_text(other.accuracy),
                f"{other.auc.value:.3f}",
                f"{other.tpr_at_low_fpr.value:.2f}",
                f"{held['billboard']:.2f} (start {held['scratch']:.2f}, pre-trained {held['pretrained']:.2f})",
            ]
        )
    return table_rows(rows)


def _verdicts(protocol: Protocol, cells: list[Cell], trends: dict[str, tuple[Interval, bool]]) -> list[str]:
    """Return what the protocol would call refuted."""
    failed = [
        f"{cell.which} set, {cell.data}, {cell.ways} ways, {cell.shots} shots is below the paper (p {cell.p:.2g})"
        for cell in cells
        if cell.p < protocol.level
    ]
    for cell in cells:
        wanted = _TARGETS[cell.which]
        if (cell.data, cell.ways, cell.shots) == ("mnist", 5, 1) and cell.accuracy < wanted:
            failed.append(f"{cell.which} set, mnist, 5 ways, 1 shot: {cell.accuracy:.3f} is below {wanted}")
    return failed + [f"{name}: {one}" for name, (one, holds) in trends.items() if not holds]


def _page(protocol: Protocol, evidence: Evidence, cells: list[Cell], epochs: Epochs) -> str:
    trends = _trends(cells, epochs)
    at = {(cell.which, cell.data): cell for cell in cells if (cell.ways, cell.shots) == (5, 1)}
    held = {f"{cell.data} {cell.ways}-{cell.shots}": cell.held_out for cell in cells}
    return fill_page(
        _HERE / "evidence-attacks.md.j2",
        protocol,
        evidence,
        _verdicts(protocol, cells, trends),
        query=at["query", "mnist"],
        support=at["support", "mnist"],
        above=sum(cell.accuracy >= cell.paper_accuracy for cell in cells),
        gap=sum(cell.accuracy - cell.found["controlled"].accuracy.value for cell in cells) / len(cells),
        chief=_main_table(cells),
        all=_all_table(cells),
        held=held,
        idle=[name for name, one in held.items() if one["billboard"] <= one["scratch"] + 0.02],
        behind=[name for name, one in held.items() if one["billboard"] <= one["pretrained"]],
        trends=table_rows([name, str(one), "yes" if holds else "not shown"] for name, (one, holds) in trends.items()),
    )


def main(root: Path | None = None) -> None:
    """Run what is missing, then write docs/evidence-attacks.md and its figures."""
    root = page_root(root)
    protocol, configs = _read()
    evidence = collect(configs, protocol.seeds, build=scenario("maml-attack").build, out=root / _RUNS)
    cells, epochs = _cells(protocol, configs, root / _RUNS)
    (root / "docs/evidence-attacks.md").write_text(_page(protocol, evidence, cells, epochs), encoding="utf-8")
    draw_cells(cells, root / "docs/images/maml-attack-cells.svg")
    draw_epochs(epochs, root / "docs/images/maml-attack-epochs.svg")


if __name__ == "__main__":
    main()
