"""Protocols: what must be said first, and runs that are missing, half-done or finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedpriv import InputError
from fedpriv.config import apply, build_experiment, parse_assignments
from fedpriv.evidence import collect, read_protocol
from fedpriv.scenarios import scenario

TEXT = """\
question = "Does it help?"
preset = "digits"
strengths = [0.5, 1.0]
report_seeds = [7, 8]
contrast = "personal - local_only"
refuted = "an interval that does not lie above 0"

[tuning]
seeds = [0, 1]
"""
SETTINGS = [
    *["run.grid=in-process", "data.tasks=20", "strategy.rounds=2", "strategy.noise_multiplier=3.0"],
    *["client.epochs=1", "client.final_epochs=1", "strategy.evaluate_every=0"],
]


def write(folder: Path, text: str) -> Path:
    path = folder / "protocol.toml"
    path.write_text(text)
    return path


def test_every_committed_protocol_can_be_read() -> None:
    root = Path(__file__).parent.parent / "scenarios"
    found = read_protocol(root / "pmtl/protocol.toml", own=("epsilons", "reference"))
    assert found.own == {"epsilons": [0.5, 1.0, 2.0, 4.0], "reference": "global-model"}
    assert len(found.report_seeds) == 8


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("seeds = [7, 8]", "seeds = [7, 1]", "fresh, but 1 was used for tuning"),
        ("seeds = [7, 8]", "seeds = [7, 7]", "names a seed twice"),
        ("seeds = [7, 8]", "seeds = [7]", "report_seeds"),
        ("refuted = ", "refutd = ", "did you mean 'refuted'"),
        ("strengths = [0.5, 1.0]\n", "", "lacks 'strengths'"),
        ('contrast = "personal - local_only"\n', "", "lacks 'contrast'"),
        ("[tuning]", "[tuning]\nrounds = 3", "rounds"),
        ("[tuning]", "[tuning", "not valid TOML"),
        ("preset =", "level = 2\npreset =", "level"),
    ],
)
def test_wrong_protocols(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert old in TEXT
    with pytest.raises(InputError, match=r"protocol\.toml") as caught:
        read_protocol(write(tmp_path, TEXT.replace(old, new)), own=("strengths",))
    assert sentence in str(caught.value)


def test_missing_runs_are_run_and_finished_ones_read(tmp_path: Path) -> None:
    protocol = read_protocol(write(tmp_path, TEXT), own=("strengths",))
    words: dict[str, Any] = {
        "config": apply(scenario("pmtl").preset(), parse_assignments(SETTINGS)),
        "arms": {"pmtl": {}, "reference": {"client.name": "global-model"}},
        "points": {"1": {"client.strength": 1.0}},
        "build": build_experiment,
        "out": tmp_path / "runs",
    }
    first = collect(protocol, **words)
    assert len(first.column("pmtl", "1")) == len(first.column("reference", "1", "local_only")) == 2
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/seed-*/summary.json")}
    assert {path.parent.parent.name for path in files} == {"pmtl-1", "reference-1"}
    assert collect(protocol, **words) == first
    assert {path: path.stat().st_mtime_ns for path in files} == files
    path = min(files)
    path.write_text(path.read_text().replace('"flwr": "', '"flwr": "0.'))
    with pytest.raises(Exception, match="other versions"):
        collect(protocol, **words)
