"""Real processes: nodes that are not let in end with a reason, and reach neither a run nor a worker."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from deployed import deployment, fedpriv, until

from fedpriv.deploy.certificates import make_authority, make_node_key

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(1800)]

SHORT: dict[str, Any] = {
    "data.tasks": 4,
    "client.epochs": 1,
    "client.final_epochs": 1,
    "strategy.rounds": 1,
    "strategy.sampling_rate": 1.0,
    "strategy.evaluate_every": 0,
    "run.report": False,
    "run.baseline": False,
}


def test_who_is_no_member_is_refused_and_a_run_goes_on_without(tmp_path: Path) -> None:
    with deployment(tmp_path) as lab:
        lab.make("pmtl", SHORT)
        data = {"name": "digits", "partition": "dirichlet", "alpha": 0.3, "tasks": 4}
        member = lab.add("member", data, part=[0, 2])
        lab.add("other", data, part=[2, 4])
        lab.start_server()
        lab.start_node("member")
        lab.wait_online("member")

        for name in ("unknown", "nokey", "untrusting", "plain"):
            folder = tmp_path / name
            shutil.copytree(member, folder, ignore=shutil.ignore_patterns("node.journal", "*.log", "*.key*", "*.json"))
            text = (folder / "node.toml").read_text().replace('name = "member"', f'name = "{name}"')
            (folder / "node.toml").write_text(text)
            lab.nodes[name] = folder
        make_node_key(tmp_path / "unknown" / "unknown.key")
        shutil.copy(member / "member.key", tmp_path / "untrusting" / "untrusting.key")
        make_authority(tmp_path / "untrusting" / "ca.crt", tmp_path / "aside.key")
        shutil.copy(member / "member.key", tmp_path / "plain" / "plain.key")

        # A key that nobody approved, none, and a copy of a member's: each command ends by itself, with a reason.
        said = fedpriv("deploy", "node", "node.toml", cwd=tmp_path / "unknown", code=4)
        assert "the connection to" in said
        said = fedpriv("deploy", "node", "node.toml", cwd=tmp_path / "nokey", code=2)
        assert "nokey.key" in said
        assert "fedpriv deploy request" in said
        said = fedpriv("deploy", "node", "node.toml", cwd=tmp_path / "plain", code=4)
        assert "the connection to" in said
        said = fedpriv("deploy", "node", "node.toml", cwd=tmp_path / "untrusting", code=4)
        assert "certificate" in said.lower()
        front = (lab.server / "logs" / "front.log").read_text()
        assert "UNKNOWN_CA" in front
        assert "refused by the SuperLink (4" in front

        run = lab.start_run(tmp_path / "run")
        until("the run is done", lambda: run.child is not None and run.child.poll() is not None)
        assert run.child is not None
        assert run.child.returncode == 0, run.said()[-2000:]
        summary = json.loads((tmp_path / "run/summary.json").read_text())
        assert summary["unreachable"]["tasks"] > 0, "the other member never came"
        for name in ("unknown", "nokey", "plain", "untrusting"):
            assert not list((tmp_path / name).glob("node.journal/run-*")), "no question reached them"
