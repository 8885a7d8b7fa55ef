"""The list of planted faults fits the code: each can be planted, and the tests that must notice it exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mutate import ROOT, Fault, copy_to, faults, run_tests

FAULTS = faults()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_fault_can_be_planted(fault: Fault) -> None:
    text = (ROOT / fault.file).read_text(encoding="utf-8")
    assert text.count(fault.old) == 1, "'old' must stand exactly once in the file: mend the list when code moves"
    assert fault.new != fault.old, "a fault changes something"
    assert fault.tests
    for test in fault.tests:
        file, _, name = test.partition("::")
        assert name, "name the tests: a whole file takes long"
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {re.escape(name.partition('[')[0])}\(", source, re.MULTILINE), test


def test_names_are_said_once_and_all_guards_are_there() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    guards = {fault.guard for fault in FAULTS}
    assert guards >= {
        "clipping", "noise", "sampling", "weights", "denominators", "order of charge", "secrets", "relations", "groups",
        "states", "file modes", "export",
    }  # fmt: skip


def test_a_planted_fault_is_what_the_tests_run_on(tmp_path: Path) -> None:
    """The copy is used, not the checkout or what is installed: a fault at the top of a module must show."""
    copy_to(tmp_path)
    place = tmp_path / "fedpriv" / "strategies" / "silent.py"
    place.write_text(place.read_text(encoding="utf-8") + "\nraise RuntimeError('planted')\n", encoding="utf-8")
    (tmp_path / "tests" / "test_planted.py").write_text(
        "def test_it():\n    from fedpriv.strategies import Silent\n    assert Silent\n", encoding="utf-8"
    )
    code, said = run_tests(tmp_path, ["test_planted.py"])
    assert (code, "RuntimeError: planted" in said) == (1, True), said
