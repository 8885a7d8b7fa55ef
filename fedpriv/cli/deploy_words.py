"""What ``fedpriv deploy status`` finds, in words."""

from __future__ import annotations

from typing import Any

from fedpriv.cli.options import say, show_table

__all__ = ["say_node", "say_server"]


def say_server(found: dict[str, Any]) -> None:
    """Print how a server's deployment is doing."""
    show_table(found["nodes"], as_json=False)
    run = found["run"]
    if run is None:
        say("no run yet")
    else:
        state = "finished" if run["finished"] else "not finished"
        say(f"last run: {run['folder']}, begun {run['began']}: {run['published']} of {run['planned']} rounds, {state}")
    for one in found["spent"]:
        known = {name: value for name, value in (one["spent"] or {}).items() if value is not None}
        spent = [f"epsilon {_short(value)} ({relation})" for relation, value in known.items()]
        budget = "" if one["budget"] is None else f" of a budget of {one['budget']['epsilon']:g}"
        words = " or ".join(spent) or "nothing"
        say(f"population {one['population']!r} has spent {words} at delta {one['delta']:.3g}{budget}, by the ledger")
        if one["warning"]:
            say(f"  {one['warning']}")
    refused = found["refused_at_the_front"]
    if refused["count"]:
        say(f"the front has refused {refused['count']} requests or connections; the last:")
        for line in refused["last"]:
            say(f"  {line}")


def say_node(found: dict[str, Any]) -> None:
    """Print what a node's tasks granted."""
    limit = found["policy"].get("max_epsilon")
    for run in found["runs"]:
        refused = f", {run['refused']} other questions for rounds it had answered refused" if run["refused"] else ""
        say(f"run {run['run']!r} of population {run['population']!r}: answered to round {run['rounds']}{refused}")
    if not found["tasks"]:
        say(f"node {found['node']}: no task has granted anything")
        return
    worst = max(found["tasks"], key=lambda task: float(task["epsilon"]))
    many = "1 release" if worst["granted"] == 1 else f"{worst['granted']} releases"
    granted = f"{many}, epsilon {_short(worst['epsilon'])} ({worst['task']!r})"
    say(
        f"node {found['node']}: {len(found['tasks'])} tasks have granted something; the most is {granted}, without "
        f"amplification, if the server adds its noise; "
        + ("no max_epsilon is set" if limit is None else f"max_epsilon is {limit:g}")
    )


def _short(value: Any) -> str:
    return f"{float(value):.4g}"
