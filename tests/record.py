"""Record what runs come to, so that a change of the code's structure can be held against it.

``python tests/record.py FILE`` runs every preset, shortened, and each mechanism, with ``--reproduce``, and
writes what came out; ``python tests/record.py FILE --check`` runs them again and lists what differs. ``bits`` of a case
(digests of what was published, scores) hold for one kind of processor; the rest holds everywhere.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import sqlite3
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from fedpriv.cli import main
from fedpriv.data import keep_data
from fedpriv.scenarios import scenarios

ALWAYS = {"strategy.rounds": 2, "run.grid": "in-process", "run.shards": 2, "run.report": False}
SHORT = {
    "strategy.evaluate_every": 0,
    "client.epochs": 1,
    "client.final_epochs": 1,
    "client.final_steps": 1,
    "client.warm_up": 0,
    "model.hidden": 8,
    "data.tasks": 25,
    "data.held_out": 5,
    "attack.games": 3,
    "attack.validation": 2,
}
"""Set where a preset has the key."""
MORE = {
    "lrs-ratings": {"data.rank": 5, "data.min_examples": 30},
    "maml-attack": {
        "attack.rounds": [1],
        "attack.iterations": 2,
        "attack.sets": ["query"],
        "attack.global_game": False,
    },
}
PEOPLE = {"data.tasks": 40, "strategy.rounds": 4, "strategy.sampling_rate": 0.25, "client.epochs": 1}
MECHANISMS: dict[str, dict[str, Any]] = {
    "poisson": {},
    "full": {"strategy.sampling_rate": 1.0},
    "noise multiplier": {"strategy.epsilon": None, "strategy.noise_multiplier": 1.5},
    "replace-one": {"strategy.relation": "replace-one"},
    "fixed-size, updates use state": {"strategy.sampling": "fixed-size", "strategy.relation": "replace-one"},
    "banded": {"strategy.noise": "banded", "strategy.min_separation": 4, "strategy.rounds": 8},
    "limited": {"strategy.min_separation": 4, "strategy.schedule": "random", "strategy.rounds": 8},
    "adaptive": {"strategy.clipping": "adaptive"},
    "per-layer": {"strategy.clipping": "per-layer", "model.name": "mlp", "model.hidden": 6},
    "clipping norms": {"strategy.clipping_norm": None, "strategy.clipping_norms": {"1": 0.3}},
    "metrics": {
        "strategy.metrics": ["personal.accuracy", "billboard.loss"],
        "strategy.metrics_every": 2,
        "strategy.metrics_epsilon": 0.5,
    },
    "groups": {"strategy.groups": [number % 2 for number in range(40)]},
    "an epsilon per group": {
        "strategy.groups": [number % 2 for number in range(40)],
        "strategy.epsilon": {"0": 1.0, "1": 4.0},
    },
    "noise on the nodes": {
        "strategy.noise_at": "node",
        "strategy.relation": "replace-one",
        "strategy.reply": "rows",
        "strategy.sampling_rate": 1.0,
    },
    "rows": {"strategy.reply": "rows"},
    "no noise": {"strategy.epsilon": None, "strategy.noise_multiplier": 0.0},
}
"""Changes of the preset of ``pmtl``; None takes a key out."""

Case = tuple[str, list[str]]


def cases() -> Iterator[Case]:
    """Yield a name and the words after ``fedpriv run`` for every case; neighbours share their data."""
    presets = [(name, preset) for name, one in scenarios().items() for preset in one.presets]
    for name, preset in sorted(presets, key=lambda one: str(scenarios()[one[0]].preset(one[1])["data"])):
        yield f"{name} {preset}", [name, "--preset", preset, *shortened(name, preset, ALWAYS)]
    for name, changes in MECHANISMS.items():
        wanted = ALWAYS | PEOPLE | changes
        yield f"mechanism {name}", ["pmtl", *settings(wanted)]
    wanted = ALWAYS | {"data.tasks": 25, "strategy.sampling": "fixed-size", "strategy.sampling_rate": 0.2}
    private = {"strategy.clipping_norm": 1.0, "strategy.noise_multiplier": 1.0}
    yield "mechanism fixed-size, amplified", ["lrs-synthetic", *settings(wanted | private)]


def shortened(name: str, preset: str, always: Mapping[str, Any]) -> list[str]:
    """Return the words that make a run of a preset short."""
    config = scenarios()[name].preset(preset)
    keys = {key: value for key, value in SHORT.items() if key.split(".")[1] in config.get(key.split(".")[0], {})}
    return settings({**always, **keys, **MORE.get(name, {})})


def settings(wanted: Mapping[str, Any]) -> list[str]:
    """Return settings as words of the command line."""
    return [word for key, value in wanted.items() for word in ("--set", f"{key}={in_toml(value)}")]


def in_toml(value: Any) -> str:
    """Return a value as it is typed behind ``--set``."""
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {in_toml(item)}' for key, item in value.items()) + "}"
    return "none" if value is None else json.dumps(value)


def run(words: list[str], folder: Path) -> tuple[int, str]:
    """Run ``fedpriv run`` in this process; return its exit code and what it said."""
    before, said = sys.argv, io.StringIO()
    sys.argv = ["fedpriv", "run", *words, "--reproduce", "7", "--out", str(folder)]
    try:
        with redirect_stdout(said), redirect_stderr(said):
            main()
    except SystemExit as leave:
        return int(leave.code or 0), said.getvalue()
    finally:
        sys.argv = before
    return 0, said.getvalue()


def outcome(folder: Path) -> dict[str, Any]:
    """Return what a finished run came to: what must be the same everywhere, and under ``bits`` the rest."""
    from fedpriv.runs.checkpoint import CheckpointStore

    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    summary.get("measures", {}).get("store", {}).pop("microseconds_per_pair", None)
    for name in ("metrics", "spread"):  # which follow from what is kept
        summary["diagnostics"].pop(name, None)
    bits = {name: digest(summary.pop(name, None)) for name in ("diagnostics", "measures")}
    for name in ("seconds", "tasks_per_second", "versions", "fill_ratio"):
        summary.pop(name, None)
    for name in ("path", "run"):
        summary["ledger"].pop(name, None)
    if "metrics" in summary:
        bits["means"] = digest(summary["metrics"].pop("means"))
    summary["sharing"].pop("measured", None)
    summary["warnings"] = [one for one in summary["warnings"] if "in this run" not in one]
    rows = []
    if (folder / "ledger.sqlite").exists():
        with sqlite3.connect(folder / "ledger.sqlite") as store:
            asked = "SELECT round, part, release.release, digest FROM entries JOIN releases AS release"
            for number, part, release, published in store.execute(
                f"{asked} ON release.id = entries.release ORDER BY 1, 2"
            ):
                rows.append([number, part, json.loads(release)])
                bits[f"release {number} {part}"] = published
    store_of = CheckpointStore(folder / "checkpoints")
    numbers = store_of.rounds()
    last = store_of.load(numbers[-1])
    shape = {
        group: {name: [*value.shape, str(value.dtype)] for name, value in arrays.items()}
        for group, arrays in last.billboards.items()
    }
    bits["billboards"] = digest(
        {
            g: {n: hashlib.sha256(np.ascontiguousarray(v)).hexdigest() for n, v in a.items()}
            for g, a in last.billboards.items()
        }
    )
    bits["sampled"] = digest({group: ids.tolist() for group, ids in last.sampled.items()})
    config = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))
    return {
        "config": config,
        "summary": abridged(summary),
        "ledger": rows,
        "billboards": shape,
        "rounds": numbers,
        "bits": bits,
    }


def digest(value: Any) -> str:
    """Return a digest of what JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


def abridged(value: Any) -> Any:
    """Replace long lists by their length and digest."""
    if isinstance(value, dict):
        return {key: abridged(item) for key, item in value.items()}
    if isinstance(value, list):
        return f"{len(value)} items, {digest(value)}" if len(value) > 20 else [abridged(item) for item in value]
    return value


def record(names: list[str]) -> dict[str, Any]:
    """Run the cases whose name holds one of the given texts, all unless given."""
    found: dict[str, Any] = {}
    with keep_data(), tempfile.TemporaryDirectory() as folder:
        for number, (name, words) in enumerate(cases()):
            if names and not any(one in name for one in names):
                continue
            out = Path(folder) / str(number)
            code, said = run(words, out)
            if "which is missing" in said:
                sys.stdout.write(f"{name}: left out: {said}")
                continue
            found[name] = outcome(out) if code == 0 else {"refused": said.replace(str(out), "RUN")}
            sys.stdout.write(f"{name}: {'recorded' if code == 0 else said.strip().splitlines()[-1]}\n")
    return found


def differences(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """Yield where two records differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() | after.keys():
            yield from differences(before.get(key), after.get(key), f"{where}/{key}")
    elif before != after:
        yield f"{where}: {before!r} became {after!r}"


def command() -> int:
    """Record, or compare with a record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", action="append", default=[], help="part of the names of cases; all unless given")
    parser.add_argument("--check", action="store_true", help="compare with what is in the file")
    parser.add_argument("--no-bits", action="store_true", help="leave out what holds for one kind of processor")
    asked = parser.parse_args()
    found = record(asked.only)
    if not asked.check:
        lines = (f"{json.dumps(name)}: {json.dumps(one, sort_keys=True)}" for name, one in sorted(found.items()))
        asked.file.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        return 0
    before = {name: one for name, one in json.loads(asked.file.read_text(encoding="utf-8")).items() if name in found}
    if asked.no_bits:
        for one in (*before.values(), *found.values()):
            one.pop("bits", None)
    lines = sorted(differences(before, found))
    sys.stdout.write(("\n".join(lines) or f"{len(found)} cases are as they were.") + "\n")
    return 1 if lines else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(command())
