"""What ``fedpriv deploy status`` says: on the server of all nodes and the last run, on a node of its own account."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from fedpriv.config import read_toml
from fedpriv.deploy.journal import NodeAccount
from fedpriv.deploy.layout import ServerFolder
from fedpriv.deploy.news import RunNews
from fedpriv.deploy.owner import OwnerFile, state_folder
from fedpriv.deploy.server import seen_nodes
from fedpriv.privacy.guarantee import WATCHED
from fedpriv.privacy.ledger import Ledger
from fedpriv.privacy.mechanisms import Release
from fedpriv.privacy.policy import epsilon_granted
from fedpriv.privacy.sampling import FIXED_SIZE
from fedpriv.runs.atomic import read_members
from fedpriv.runs.checkpoint import CheckpointStore
from fedpriv.runs.record import plain

__all__ = ["node_status", "server_status"]

_SHOWN = 3
"""Lines of the front's log that are shown."""


def server_status(folder: ServerFolder) -> dict[str, Any]:
    """Return by ``nodes``, ``run``, ``spent`` and ``refused_at_the_front`` how a deployment is doing, ready for JSON.

    Raises
    ------
    ComponentFailure
        Nothing serves the deployment, or a file of it is damaged.
    """
    members, news = folder.members(), RunNews(folder).read()
    seen, heard = seen_nodes(folder, members), news.get("nodes", {})
    nodes = []
    for node in members.nodes:
        last, trouble = (heard.get(node.name, {}).get(key, {}) for key in ("last", "trouble"))
        nodes.append(
            {
                "node": node.name,
                "tasks": f"{node.first} to {node.first + node.count - 1}",
                "state": seen[node.name],
                "last": " ".join(filter(None, (last.get("what"), last.get("stage")))),
                "trouble": f"{trouble['what']} {trouble['stage']}: {trouble['reason']}" if trouble else "",
            }
        )
    found = {"nodes": nodes, "version": members.version, "run": _run(news), "spent": _spent(folder)}
    return {**found, "refused_at_the_front": _refused(folder.logs / "front.log")}


def node_status(file: Path) -> dict[str, Any]:
    """Return what a node's tasks granted, over all runs and servers, ready for JSON.

    Parameters
    ----------
    file : Path
        The owner's.

    Raises
    ------
    InputError, ComponentFailure
        The owner's file is wrong, or a file of the node is damaged.
    """
    owner, state = OwnerFile.read(file), state_folder(file.resolve())
    account = NodeAccount(state / "account.json")
    tasks = []
    for name in account.names:
        counts = {Release.from_json(kind): count for kind, count in account.counts(name).items()}
        tasks.append({"task": name, "granted": sum(counts.values()), "epsilon": epsilon_granted(owner.policy, counts)})
    journals = [path for path in state.glob("run-*.npz") if not path.name.endswith(".before.npz")]
    headers = [read_members(path)[0] for path in sorted(journals, key=lambda path: path.stat().st_mtime_ns)]
    runs = [
        {
            "population": header["population"],
            "run": header["run"],
            "rounds": max(header["rounds"].values(), default=0),
            "refused": header["refused"],
        }
        for header in headers
    ]
    limits = {key: value for key, value in owner.policy.model_dump(mode="json").items() if value is not None}
    found = {"node": owner.name, "server": owner.server.address, "policy": limits, "runs": runs, "tasks": tasks}
    return dict(plain(found))


def _run(news: dict[str, Any]) -> dict[str, Any] | None:
    if not news:
        return None
    out = Path(news["run"])
    found = {"folder": str(out), "began": news["began"], "published": 0, "planned": None, "finished": False}
    if (out / "config.toml").exists():
        found["planned"] = read_toml(out / "config.toml").get("strategy", {}).get("rounds")
        found["published"] = max(CheckpointStore(out / "checkpoints").rounds(), default=0)
        found["finished"] = (out / "summary.json").exists()
    return found


def _spent(folder: ServerFolder) -> list[dict[str, Any]]:
    """Return what the deployment's ledger says of each population: what all runs on it have spent."""
    if not folder.ledger.exists():
        return []
    found = []
    with closing(Ledger(folder.ledger)) as ledger:
        for name in ledger.populations():
            told = ledger.describe(name)
            releases = [release for history in ledger.histories(name) for release in history]
            drawn = any(release.sampling_name in ("poisson", FIXED_SIZE) for release in releases)
            one = {key: told[key] for key in ("population", "spent", "delta", "budget", "left")}
            found.append({**one, "warning": WATCHED if drawn else ""})
    return found


def _refused(log: Path) -> dict[str, Any]:
    """Return how often the front refused something since its log began, and the last lines that say so."""
    if not log.exists():
        return {"count": 0, "last": []}
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    found = [line for line in lines if " refused" in line or "no TLS connection" in line]
    return {"count": len(found), "last": found[-_SHOWN:]}
