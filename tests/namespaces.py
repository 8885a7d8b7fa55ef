"""Network namespaces for nodes, as if each had a machine of its own; loopback where they cannot be made."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from shutil import which

LOOPBACK = "127.0.0.1"
_PREFIX = f"10.77.{os.getpid() % 250}"


def ip(*words: str) -> bool:
    """Type a command of iproute2, and tell whether it was done."""
    if os.environ.get("FEDPRIV_TEST_LOOPBACK"):  # to see that the tests hold without, too
        return False
    return which("ip") is not None and subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0


@contextmanager
def namespaces(names: Sequence[str]) -> Iterator[tuple[str, dict[str, tuple[str, ...]]]]:
    """Yield the address of this machine that nodes reach, and the words before each node's commands."""
    mark = f"{os.getpid() % 100000}"
    bridge = f"fb{mark}"
    spaces = {name: f"fedpriv-{mark}-{name}" for name in names}
    try:
        yield _joined(bridge, spaces, mark)
    finally:
        for space in spaces.values():
            ip("netns", "del", space)
        ip("link", "del", bridge)


def plugged(name: str, *, up: bool) -> bool:
    """Pull a node's cable, or plug it in again, and tell whether there is one."""
    mark = f"{os.getpid() % 100000}"
    return ip("-n", f"fedpriv-{mark}-{name}", "link", "set", "eth0", "up" if up else "down")


def _joined(bridge: str, spaces: dict[str, str], mark: str) -> tuple[str, dict[str, tuple[str, ...]]]:
    host = f"{_PREFIX}.1"
    steps = [
        ("link", "add", bridge, "type", "bridge"),
        ("addr", "add", f"{host}/24", "dev", bridge),
        ("link", "set", bridge, "up"),
    ]
    for number, space in enumerate(spaces.values()):
        outer = f"v{mark}{number}"
        steps += [
            ("netns", "add", space),
            ("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space),
            ("link", "set", outer, "master", bridge),
            ("link", "set", outer, "up"),
            ("-n", space, "addr", "add", f"{_PREFIX}.{10 + number}/24", "dev", "eth0"),
            ("-n", space, "link", "set", "eth0", "up"),
            ("-n", space, "link", "set", "lo", "up"),
        ]
    if not all(ip(*step) for step in steps) or not all(ip("netns", "exec", one, "true") for one in spaces.values()):
        return LOOPBACK, {}
    return host, {name: ("ip", "netns", "exec", space) for name, space in spaces.items()}
