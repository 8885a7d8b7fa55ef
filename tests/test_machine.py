"""What a process may use of its machine: affinity, quotas of control groups, and who asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import experiment, toy_tasks

from fedpriv.machine import usable_cores

ASKED = "from fedpriv.machine import usable_cores; print(usable_cores())"


def group(root: Path, membership: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": membership, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(128)))


def test_no_more_cores_than_the_process_may_run_on() -> None:
    """A program with one core of the machine, whatever the machine has."""
    one = min(os.sched_getaffinity(0))
    ran = subprocess.run(
        ["taskset", "-c", str(one), sys.executable, "-c", ASKED], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/\n", {}, 128),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, 128),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "1000 100000\n"}, 1),
        ("0::/a/b\n", {"sys/fs/cgroup/a/b/cpu.max": "max 100000\n", "sys/fs/cgroup/a/cpu.max": "300000 100000\n"}, 3),
        # The path of the host, where a container sees its own group as the root.
        ("0::/docker/5f\n", {"sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
        (
            "7:memory:/x\n4:cpu,cpuacct:/x\n0::/\n",
            {
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        (
            "1:cpu:/\n",
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
            128,
        ),
        ("nonsense\n", {}, 128),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "nonsense\n"}, 128),
    ],
)
@pytest.mark.usefixtures("many_cores")
def test_no_more_cores_than_the_quota_pays_for(
    tmp_path: Path, membership: str, files: dict[str, str], cores: int
) -> None:
    assert usable_cores(group(tmp_path, membership, files)) == cores


@pytest.mark.usefixtures("many_cores")
def test_no_files_of_control_groups_no_quota(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 128


def test_shards_sweeps_and_games_take_what_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks for the cores of the machine, as ``os.cpu_count`` tells them."""
    monkeypatch.setattr("fedpriv.experiment.specification.usable_cores", lambda: 3)
    assert experiment(toy_tasks(), shards=None, grid="ray").num_shards == 3
    root = Path(__file__).parent.parent
    asking = [
        path.relative_to(root).as_posix()
        for folder in ("fedpriv", "strategies", "clients", "scenarios")
        for path in sorted((root / folder).rglob("*.py"))
        if "cpu_count" in path.read_text()
    ]
    assert asking == ["fedpriv/machine.py"]
