"""Shared by all tests: no test may depend on the global generators, and data are looked up in one place."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedpriv.cli import main
from fedpriv.runtime.pool import ShardPool

POOL = ShardPool()
"""Ray and its warm shards: tests that take the fixture ``pool`` and follow each other share one start."""


def pytest_configure() -> None:
    """Listen to interrupts, also in a job that a shell started in the background with interrupts ignored.

    Tests interrupt processes that they start, and these would inherit that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)  # after those that are not wanted have been left out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests that need the larger data sets where there are none; CI must have them. Put the longest first."""
    items[:] = longest_first(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    folder = os.environ.get("FEDPRIV_DATA", "")
    if folder and Path(folder).is_dir():
        return
    if os.environ.get("CI"):
        raise pytest.UsageError("CI must set FEDPRIV_DATA: tests that need the data sets may not be skipped there.")
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(pytest.mark.skip(reason="needs FEDPRIV_DATA"))


def longest_first(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """Begin each worker's share with long tests, so that in the end none works on one while the others have nothing.

    pytest-xdist gives each worker an equal part of the list, in order, and who is done takes from the end of another's.
    Tests of one file stay together, and so do those that share Ray.
    """
    groups: dict[str, list[pytest.Item]] = {}
    rest = []
    for item in items:
        if "pool" in item.fixturenames:  # type: ignore[attr-defined]
            groups.setdefault("pool", []).append(item)
        elif item.get_closest_marker("long"):
            groups.setdefault(item.path.name, []).append(item)
        else:
            rest.append(item)
    # Ray gives way to all other processes, so tests of several processes at a time are kept away from those on Ray.
    heads: list[list[pytest.Item]] = [groups.pop("pool", []), *([] for _ in range(workers - 1))]
    for number, group in enumerate(groups.values()):
        heads[-1 - number % max(1, workers - 1)] += group
    ordered: list[pytest.Item] = []
    for number, head in enumerate(heads):
        share = (len(items) - len(ordered)) // (workers - number)
        more = max(0, share - len(head))
        ordered += [*head, *rest[:more]]
        del rest[:more]
    return ordered + rest


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Stop the shared Ray before a test that does not ask for it: it may start one of its own, or look at processes."""
    if "pool" not in item.fixturenames:  # type: ignore[attr-defined]
        POOL.close()


@pytest.fixture(scope="session")
def pool() -> Iterator[ShardPool]:
    """Shards that tests before have warmed."""
    yield POOL
    POOL.close()


@pytest.fixture
def fedpriv(monkeypatch: Any, capsys: Any, tmp_path: Path) -> Any:
    """Call the command in this process, from an empty folder; return exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedpriv", *words])
        try:
            main()
            code = 0
        except SystemExit as leave:
            code = int(leave.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call
