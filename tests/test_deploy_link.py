"""What Flower raises when its server is gone, and how one process keeps another out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from flwr.supercore.run import RunNotRunningException

from fedpriv.errors import ComponentFailure
from fedpriv.files import alone
from fedpriv.runtime.flower_tasks import link_errors


def test_a_run_that_is_given_up_and_a_server_that_is_gone_are_sentences() -> None:
    assert not issubclass(RunNotRunningException, Exception), "else the worker and the run would survive it anyway"
    with pytest.raises(ComponentFailure, match="given this run up"), link_errors():
        raise RunNotRunningException
    with pytest.raises(ComponentFailure, match="fedpriv deploy serve"), link_errors():
        raise httpx.ConnectError("refused")
    with pytest.raises(ZeroDivisionError), link_errors():
        raise ZeroDivisionError


def test_a_second_process_is_told_that_another_is_at_work_until_that_one_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    text = (
        f"import sys\nfrom pathlib import Path\nfrom fedpriv.files import alone\n"
        f"with alone(Path({str(path)!r}), 'told'):\n    print('mine', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == b"mine"
        with pytest.raises(ComponentFailure, match="told"), alone(path, "told"):
            pass
        other.kill()
        with alone(path, "told", seconds=30.0):
            assert path.stat().st_mode & 0o077 == 0
