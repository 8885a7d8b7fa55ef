"""``fedpriv deploy doctor``: what of a server or a node is not as it should be, and what to do."""

from __future__ import annotations

import platform
import shutil
import sqlite3
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from fedpriv.config import build_experiment, read_toml
from fedpriv.deploy.certificates import expiry, hosts_of, signed_by
from fedpriv.deploy.journal import NodeAccount
from fedpriv.deploy.layout import ServerFolder
from fedpriv.deploy.news import RunNews
from fedpriv.deploy.old_runs import KEPT_RUNS
from fedpriv.deploy.owner import OwnerFile, state_folder
from fedpriv.deploy.processes import answers, own_address
from fedpriv.deploy.reach import reach
from fedpriv.errors import ComponentFailure, FedprivError
from fedpriv.privacy.ledger import Ledger
from fedpriv.runs.atomic import read_members
from fedpriv.runtime.flower_private import check_version

__all__ = ["Check", "node_checks", "server_checks"]

State = Literal["ok", "warning", "wrong"]
_SOON = timedelta(days=30)
_LEAST_FREE_GIB = 1.0
_GIB = 2.0**30


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: what, how it is, and what was found or is to be done."""

    what: str
    state: State
    found: str

    def to_json(self) -> dict[str, Any]:
        """Return it as a line of a table."""
        return asdict(self)


def server_checks(folder: ServerFolder) -> Iterator[Check]:
    """Look at everything that a server needs, one thing after the other.

    Raises
    ------
    InputError
        The folder is no deployment.
    """
    settings = folder.settings()
    yield from _versions()
    yield from _certificate(folder, settings.hosts)
    secrets = {
        "authority's key": folder.authority[1],
        "server's key": folder.certificate[1],
        "secret of runs": folder.secret,
    }
    yield from (_private(what, path) for what, path in secrets.items())
    yield from (_folder(path) for path in (folder.path, folder.certificate[1].parent))
    yield _disk(folder.path)
    yield _said("list of members", lambda: _members(folder))
    yield _said("plan", lambda: _plan(folder))
    yield _said("ledger", lambda: _ledger(folder.ledger))
    yield _said("state of the last run", lambda: "readable" if RunNews(folder).read() else "no run yet")
    yield _answers("front", folder, settings.listen, settings.port)
    yield _answers("Flower's server", folder, "127.0.0.1", settings.inner_port)


def node_checks(file: Path, data_dir: Path | None = None) -> Iterator[Check]:
    """Look at everything that a node needs, one thing after the other; its data are loaded.

    Parameters
    ----------
    file : Path
        The owner's.
    data_dir : Path or None
        Where known data sets lie.

    Raises
    ------
    InputError
        The owner's file is wrong.
    """
    owner, file = OwnerFile.read(file), file.resolve()
    state = state_folder(file)
    yield from _versions()
    key = file.with_name(f"{owner.name}.key")
    if key.is_file():
        yield _private("node's key", key)
    else:
        yield Check(
            "node's key", "wrong", f"there is none at {key}; make one with `fedpriv deploy request {file.name}`"
        )
    yield _policy(owner)
    yield _said("data", lambda: _data(owner, data_dir))
    yield _disk(state if state.exists() else file.parent)
    yield _said("account", lambda: _account(state / "account.json"))
    yield _said("journals", lambda: _journals(state))
    reached = reach(owner, file.parent)
    yield Check("server", "wrong" if reached.trouble else "ok", reached.trouble or f"{owner.server.address} answers")
    if reached.ahead_seconds is not None:
        apart = f"{abs(reached.ahead_seconds):.0f} s from the server's"
        yield Check("clock", "wrong" if reached.clock_trouble else "ok", reached.clock_trouble or apart)


def _versions() -> Iterator[Check]:
    def look() -> str:
        check_version()
        found = ", ".join(f"{name} {version(name)}" for name in ("fedpriv", "flwr", "torch"))
        return f"{found}, Python {platform.python_version()}"

    yield _said("versions", look)


def _said(what: str, look: Callable[[], str]) -> Check:
    """Return what a look says; an error of ours is what is wrong."""
    try:
        return Check(what, "ok", look())
    except FedprivError as error:
        return Check(what, "wrong", str(error))


def _certificate(folder: ServerFolder, hosts: tuple[str, ...]) -> Iterator[Check]:
    certificate, authority = folder.certificate[0], folder.authority[0]
    again = f"make another one with `fedpriv deploy renew {folder.path}`"
    try:
        names, ends, signed = hosts_of(certificate), expiry(certificate), signed_by(certificate, authority)
    except (OSError, ValueError) as error:
        yield Check(
            "certificate", "wrong", f"{certificate} or {authority} cannot be read ({error}); restore them, or {again}"
        )
        return
    lacks = [host for host in hosts if host not in names]
    if not signed:
        yield Check("certificate", "wrong", f"it was not signed by {authority.name}; {again}")
    elif lacks:
        yield Check("certificate", "wrong", f"it is not for {', '.join(lacks)}, which deploy.toml names; {again}")
    else:
        yield Check("certificate", "ok", f"for {', '.join(names)}")
    left = ends - datetime.now(UTC)
    state: State = "wrong" if left <= timedelta() else "warning" if left < _SOON else "ok"
    yield Check("certificate's end", state, f"{ends:%Y-%m-%d}" + ("" if state == "ok" else f"; {again}"))


def _private(what: str, path: Path) -> Check:
    if not path.exists():
        return Check(what, "wrong", f"{path} is not there; restore it from a copy")
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        return Check(
            what, "wrong", f"{path} has mode {mode:o}, so others may read it; chmod 600 it, and make a new one"
        )
    return Check(what, "ok", f"mode {mode:o}")


def _folder(path: Path) -> Check:
    mode = path.stat().st_mode & 0o777
    if mode % 0o100:
        return Check(f"folder {path.name}", "wrong", f"{path} has mode {mode:o}, so others may go in; chmod 700 it")
    return Check(f"folder {path.name}", "ok", f"mode {mode:o}")


def _disk(place: Path) -> Check:
    free = shutil.disk_usage(place).free / _GIB
    state: State = "ok" if free >= _LEAST_FREE_GIB else "warning"
    return Check("disk", state, f"{free:.1f} GiB free" + ("" if state == "ok" else f" at {place}; make room"))


def _members(folder: ServerFolder) -> str:
    members = folder.members()
    return f"{len(members.nodes)} nodes, version {members.version}"


def _plan(folder: ServerFolder) -> str:
    config = read_toml(folder.plan)
    roster = folder.members().roster
    if roster is None:
        return "readable; it is checked against the data when a node is a member"
    if roster.declared == "protected":
        config["run"].setdefault("ledger", str(folder.ledger))
    build_experiment(config, roster=roster)
    return f"fits the {len(roster)} tasks of the members"


def _ledger(path: Path) -> str:
    if not path.exists():
        return "none yet"
    try:
        with closing(Ledger(path)) as ledger:
            return f"{len(ledger.populations())} populations"
    except sqlite3.Error as error:
        raise ComponentFailure(f"{path} is damaged ({error}); restore it from a copy.") from None


def _policy(owner: OwnerFile) -> Check:
    limits = {key: value for key, value in owner.policy.model_dump(mode="json").items() if value is not None}
    if owner.declared == "protected" and owner.policy.max_epsilon is None and owner.policy.max_participations is None:
        no_end = "nothing limits how much these data grant over their life; set policy.max_epsilon"
        return Check("policy", "warning", no_end)
    return Check("policy", "ok", ", ".join(f"{key} {value}" for key, value in limits.items()))


def _data(owner: OwnerFile, data_dir: Path | None) -> str:
    tasks = owner.tasks(data_dir)
    seed = owner.data.get("seed", 0)
    return (
        f"{len(tasks)} tasks, inputs of shape {list(tasks.roster.input_shape)}; split into training and test by "
        f"data.seed {seed} of the node's file, whatever the server's run.seed is"
    )


def _account(path: Path) -> str:
    account = NodeAccount(path)
    return f"{len(account.names)} tasks have granted something" if path.exists() else "none yet"


def _journals(state: Path) -> str:
    found = [path for path in state.glob("run-*.npz") if not path.name.endswith(".before.npz")]
    for path in found:
        _, members = read_members(path)
        for _ in members:  # which reads each array, and its checksum
            pass
    return f"{len(found)} of the last {KEPT_RUNS} runs, readable"


def _answers(what: str, folder: ServerFolder, listen: str, port: int) -> Check:
    """Tell whether this deployment answers on a port: whoever does shows a certificate, and it is ours or not."""
    if not answers(listen, port):
        return Check(what, "warning", f"nothing answers on port {port}; start `fedpriv deploy serve {folder.path}`")
    try:
        shown = ssl.get_server_certificate((own_address(listen), port), timeout=5.0)
        ours = ssl.PEM_cert_to_DER_cert(folder.certificate[0].read_text(encoding="ascii"))
        if ssl.PEM_cert_to_DER_cert(shown) == ours:
            return Check(what, "ok", f"it answers on port {port}")
    except (OSError, ValueError):
        pass  # whoever answers speaks no TLS, or our certificate cannot be read
    return Check(
        what,
        "wrong",
        f"what answers on port {port} does not show the certificate of this folder; after `fedpriv deploy renew` start "
        f"`fedpriv deploy serve {folder.path}` anew, else set another port in deploy.toml",
    )
