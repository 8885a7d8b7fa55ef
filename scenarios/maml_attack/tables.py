"""Regenerates the page and figure of docs/ on Tables I and II, from their protocol; finished runs are not repeated."""

from __future__ import annotations

from pathlib import Path

from fedpriv.config import Config, read_toml
from fedpriv.evidence import Configs, Protocol, collect, configurations, page_root, read_protocol
from fedpriv.scenarios.maml_attack import build

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


def _read() -> tuple[Protocol, Configs]:
    protocol = read_protocol(_HERE / "tables-protocol.toml", own=("paper",))
    return protocol, configurations(protocol, _preset, _COMMON)


def _preset(name: str) -> Config:
    return read_toml(_HERE / f"{name}.toml")


def main(root: Path | None = None) -> None:
    """Run what is missing, then write docs/evidence-attacks.md and its figures."""
    root = page_root(root)
    protocol, configs = _read()
    collect(configs, protocol.seeds, build=build, out=root / _RUNS)


if __name__ == "__main__":
    main()
