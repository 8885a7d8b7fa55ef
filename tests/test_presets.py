"""Every scenario and preset, shortened: what a run prints, as text and as JSON, and that it prints nothing empty."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from record import shortened

from fedpriv.cli.run import measure_lines
from fedpriv.data import keep_data
from fedpriv.scenarios import scenarios

ALWAYS = {"strategy.rounds": 1, "run.grid": "in-process", "run.shards": 1, "run.report": False}
NO_FILES = {"digits", "low-rank-sparse"}

PRESETS = sorted(
    ((name, preset) for name, one in scenarios().items() for preset in one.presets),
    key=lambda one: str(scenarios()[one[0]].preset(one[1])["data"]),  # neighbours share what was read
)


@pytest.fixture(scope="module", autouse=True)
def kept() -> Iterator[None]:
    with keep_data():
        yield


def marked(name: str, preset: str) -> Any:
    data = scenarios()[name].preset(preset)["data"]["name"]
    return pytest.param(name, preset, marks=[] if data in NO_FILES else [pytest.mark.data])


@pytest.mark.parametrize(("name", "preset"), [marked(*one) for one in PRESETS])
def test_what_a_preset_prints(fedpriv: Any, tmp_path: Path, name: str, preset: str) -> None:
    code, text, error = fedpriv("run", name, "--preset", preset, *shortened(name, preset, ALWAYS), "--out", "run")
    if "which is missing" in error:
        pytest.skip(error)
    assert code == 0, error
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["guarantee"]["sentence"] in text
    assert "Run folder: run. Write its report with `fedpriv report run`." in text
    for group in (key for key, value in summary.get("measures", {}).items() if isinstance(value, dict) and value):
        assert f"{group} (diagnostic, not released): " in text
    rows = {line[0]: line[1:] for line in re.findall(r"^│ (\w+(?: \w+)?) +│ *(.*?) *│$", text, re.MULTILINE)}
    config = scenarios()[name].preset(preset)
    assert ("billboard" in rows) == (not config["client"].get("permute_labels"))
    assert ("local only" in rows) == config["run"].get("baseline", True)
    assert "personal" in rows
    assert not re.search(r"│ +-? +│|\bnan\b|\d\.\d+e\+\d", text), "an empty cell, or a count that is not whole"
    assert ("TPR" in text) is False, "three games cannot tell a rate of 1%"

    code, text, error = fedpriv("run", name, "--resume", "--out", "run", "--json")
    assert code == 0, error
    assert "the run is finished; nothing was trained or charged" in error
    found = json.loads(text)
    assert found["guarantee"] == summary["guarantee"]
    assert summary.get("measures", {}).items() <= found.items()


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_a_preset_is_described_in_whole_sentences(name: str, preset: str) -> None:
    one = scenarios()[name]
    first = one.presets[preset].read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
    assert one.about(preset).startswith(first)
    assert one.about(preset).endswith(".")


def test_measures_that_are_no_group_of_numbers_are_printed_too() -> None:
    measures = {"rmse": {"amht": 0.51234, "by": {"age": 2.0}}, "tasks": {"starved": 1060}, "speed": 1059.7}
    assert measure_lines({**measures, "released": False, "said": "a text"}) == [
        "rmse (diagnostic, not released): amht 0.512, by.age 2",
        "tasks (diagnostic, not released): starved 1,060",
        "measures (diagnostic, not released): speed 1,060",
    ]
