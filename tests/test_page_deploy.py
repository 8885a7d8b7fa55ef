"""The page about real machines, typed as it is written: its files, then its commands, some in other terminals."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path

import pytest
from deployed import Running, fedpriv, until

from fedpriv.deploy.processes import tool

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(1800)]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "deploy.md"
_FILE = re.compile(r"^`([\w.]+)`\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMANDS = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STAYS = ("fedpriv deploy serve", "fedpriv deploy node")


def test_who_follows_the_page_has_a_run_with_two_nodes_in_minutes(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8").partition("\n## Several machines")[0]
    for name, content in _FILE.findall(text):
        (tmp_path / name).write_text(content, encoding="utf-8")
    began, said, running = time.monotonic(), dict[str, str](), list[Running]()
    commands = [line for block in _COMMANDS.findall(text) for line in block.splitlines()]
    assert len(commands) > 8
    try:
        for line in commands:
            words = [tool(word) if word in ("fedpriv", "python") else word for word in line.split()]
            if line.startswith(STAYS):
                log = tmp_path / f"terminal{len(running)}.log"
                running.append(Running(words, log, tmp_path).start())
                until(f"{line} says that it works", log.read_text, alive=running[-1].alive)
                continue
            if line.startswith("fedpriv deploy status"):  # who reads the page looks until both are there
                until("both nodes are online", lambda: online(tmp_path), alive=running[-1].alive)
            shell = " ".join([*words[:1], *line.split()[1:]])
            done = subprocess.run(shell, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
            said[line] = done.stdout + done.stderr
            assert done.returncode == 0, f"{line}: {said[line]}"
    finally:
        for one in reversed(running):
            one.stop()
    (run,) = (text for line, text in said.items() if line.startswith("fedpriv deploy run"))
    assert "epsilon" in run
    assert json.loads((tmp_path / "first/summary.json").read_text())["num_tasks"] == 120
    assert (tmp_path / "lab/ledger.sqlite").exists()
    assert time.monotonic() - began < 600, "the page promises less than ten minutes"


def online(folder: Path) -> bool:
    found = json.loads(fedpriv("deploy", "status", "lab", "--json", cwd=folder))
    return [node["state"] for node in found["nodes"]] == ["online", "online"]
