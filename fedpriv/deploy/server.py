"""The server of a deployment: its SuperLink and front, and one run from the members' question to the summary."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from fedpriv.config import apply, build_experiment, read_toml
from fedpriv.deploy.configuration import CONFIG_KEY, told
from fedpriv.deploy.grid import DeployedGrid
from fedpriv.deploy.layout import ServerFolder
from fedpriv.deploy.members import Members, kind_of_data
from fedpriv.deploy.news import RunNews
from fedpriv.deploy.processes import Process, environment, last_line, tool
from fedpriv.errors import ComponentFailure, InputError
from fedpriv.experiment import Experiment
from fedpriv.files import alone, replacing, writing
from fedpriv.privacy.ledger import Ledger
from fedpriv.runs.atomic import damage_said
from fedpriv.runtime.flower_tasks import ServerTask, TaskSource
from fedpriv.summary import RunResult

__all__ = ["between_runs", "deployed_experiment", "register", "run_deployed", "seen_nodes", "serving"]

_LOG = logging.getLogger("fedpriv")
_TAKE_SECONDS = 120.0
_LINK = "deployment"


@contextmanager
def serving(folder: ServerFolder) -> Iterator[Callable[[], None]]:
    """Run SuperLink and front while the block runs; both end with it, and with this process.

    Yields a function that raises if one of the two has ended, and lets in nodes that were approved since.

    Raises
    ------
    ComponentFailure
        One does not start.
    """
    from fedpriv.deploy.front import front_command

    settings, env = folder.settings(), environment(folder.home)
    certificate, key = folder.certificate
    _write_link(folder)
    superlink = [
        tool("flower-superlink"),
        *("--ssl-certfile", str(certificate), "--ssl-keyfile", str(key), "--ssl-ca-certfile", str(folder.authority[0])),
        *("--host", "127.0.0.1", "--port", str(settings.inner_port), "--database", str(folder.database)),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation", "--isolation", "process"),
        *("--superexec-auth-secret-file", str(folder.secret)),
    ]
    with ExitStack() as stack:
        inner = stack.enter_context(Process(superlink, folder.logs / "superlink.log", env))
        inner.wait_until_open(settings.inner_port)
        outer = stack.enter_context(Process(front_command(folder), folder.logs / "front.log", env))
        outer.wait_until_open(settings.port, listen=settings.listen)
        known = folder.members()
        register(folder, known)

        def watched() -> None:
            nonlocal known
            for process in (inner, outer):
                if process.ended() is not None:
                    raise ComponentFailure(f"{process.name} ended: {last_line(process.log)}")
            if (now := folder.members()).version != known.version:
                register(folder, now)
                known = now

        yield watched


def register(folder: ServerFolder, members: Members) -> None:
    """Tell the SuperLink whose keys it may let in, and forget those of nodes that were removed.

    Which number it gave to which key is kept beside its database: it does not say.

    Raises
    ------
    ComponentFailure
        It does not take one.
    """
    known = _registered(folder)
    wanted = {member.key: member for member in members.nodes}
    for line, member in wanted.items():
        if line not in known:
            path = folder.path / "state" / f"{member.name}.pub"
            with writing(path), replacing(path, private=True) as file:
                file.write(f"{line}\n".encode())
            known[line] = str(_flwr_json(folder, "supernode", "register", str(path), _LINK)["node-id"])
            _keep_registered(folder, known)
    for line in [line for line in known if line not in wanted]:
        _flwr_json(folder, "supernode", "unregister", known[line], _LINK)
        del known[line]
        _keep_registered(folder, known)


def seen_nodes(folder: ServerFolder, members: Members) -> dict[str, str]:
    """Return by name how the SuperLink sees the members: online, offline, or registered and never there.

    Raises
    ------
    ComponentFailure
        The SuperLink is not there.
    """
    known = _registered(folder)
    _refuse_unserved(folder)
    seen = {
        str(node["node-id"]): str(node["status"]) for node in _flwr_json(folder, "supernode", "list", _LINK)["nodes"]
    }
    return {member.name: seen.get(known.get(member.key, ""), "not let in yet") for member in members.nodes}


def _refuse_unserved(folder: ServerFolder) -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", folder.settings().inner_port)) != 0:
            raise ComponentFailure(
                f"nothing serves {folder.path}; start `fedpriv deploy serve {folder.path}`, and let it run."
            )


def _registered(folder: ServerFolder) -> dict[str, str]:
    path = _registered_path(folder)
    if not path.exists():
        return {}
    with damage_said(str(path)):
        return {str(line): str(number) for line, number in json.loads(path.read_text(encoding="utf-8")).items()}


def _keep_registered(folder: ServerFolder, known: Mapping[str, str]) -> None:
    path = _registered_path(folder)
    with writing(path), replacing(path, private=True) as file:
        file.write(json.dumps(known).encode())


def _registered_path(folder: ServerFolder) -> Path:
    return folder.path / "state" / "registered.json"


def _flwr_json(folder: ServerFolder, *words: str) -> dict[str, Any]:
    """Return what a command of Flower's says, which may put words before and after it."""
    said = _flwr(folder, *words, "--format", "json")
    start, end = said.find("{"), said.rfind("}")
    try:
        found: dict[str, Any] = json.loads(said[start : end + 1])
    except ValueError:
        found = {"error-message": said.strip()[-300:]}
    if not found.get("success", False):
        raise ComponentFailure(f"Flower refused `flwr {' '.join(words[:2])}`: {found.get('error-message', said)}")
    return found


def _flwr(folder: ServerFolder, *words: str) -> str:
    done = subprocess.run(  # noqa: S603 (our own words only)
        [tool("flwr"), *words],
        env=environment(folder.home),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise ComponentFailure(
            f"Flower refused `flwr {' '.join(words[:2])}`: {said[-1] if said else 'it said nothing'}"
        )
    return done.stdout


def _write_link(folder: ServerFolder) -> None:
    """Tell Flower's command line where the SuperLink is."""
    settings = folder.settings()
    link = {
        "superlink": {
            "default": _LINK,
            _LINK: {
                "address": f"127.0.0.1:{settings.inner_port}",
                "root-certificates": str(folder.authority[0].resolve()),
            },
        }
    }
    path = folder.home / "config.toml"
    with writing(path), replacing(path, private=True) as file:
        file.write(tomli_w.dumps(link).encode())


def run_deployed(
    folder: ServerFolder,
    out: Path,
    *,
    changes: Mapping[str, Any] | None = None,
    reproduce: int | None = None,
    resume: bool = False,
    progress: Any = None,
) -> RunResult:
    """Carry out one run with the members that are there; SuperLink and front are up already.

    The server's part runs in this process, so what ends the run ends the call: an error is raised, a kill is a kill,
    and ``resume`` goes on.

    Parameters
    ----------
    folder : ServerFolder
        Of the deployment.
    out : Path
        Run folder.
    changes : mapping or None
        Settings by dotted key that replace those of the plan.
    reproduce : int or None
        Fixes noise and coins, for tests.
    resume : bool
        Go on with the run in ``out``.
    progress : callable or None
        As :meth:`fedpriv.Experiment.run`.

    Raises
    ------
    InputError, BudgetExceeded, ComponentFailure
        As a run; and where another run is at work, nothing serves, or no node is online.
    """
    with between_runs(folder):
        members = folder.members()
        config = apply(read_toml(folder.plan), dict(changes or {}))
        if reproduce is not None:
            config = apply(config, {"run.seed": reproduce})
        experiment = deployed_experiment(members, config, folder.ledger)
        _refuse_nobody(folder, members)
        run_config = folder.path / "state" / "run-config.toml"
        with writing(run_config), replacing(run_config, private=True) as file:
            file.write(tomli_w.dumps({CONFIG_KEY: told(config)}).encode())
        kept = RunNews(folder)
        kept.begins(out)
        with _taken(folder, run_config) as task:
            kind = kind_of_data(experiment.roster)
            grid = DeployedGrid(task.grid, members.by_key(), kind, kept.heard)
            return experiment.run(
                out,
                reproduce=reproduce,
                resume=resume,
                progress=progress,
                config=config,
                about={"scenario": "deployed"},
                on=grid,
            )


@contextmanager
def between_runs(folder: ServerFolder) -> Iterator[None]:
    """Keep runs, and changes of the members, apart from each other while the block runs.

    Raises
    ------
    ComponentFailure
        A run is at work, or a change.
    """
    said = (
        f"another `fedpriv deploy run` is at work on {folder.path}, and nodes answer one run at a time; wait for it, "
        "or stop it."
    )
    with alone(folder.path / "state" / "run.lock", said):
        yield


def deployed_experiment(members: Members, config: dict[str, dict[str, Any]], ledger: Path) -> Experiment:
    """Return what a deployment runs: the plan's experiment, for these members and with a guarantee that holds for them.

    Parameters
    ----------
    members : Members
        Who takes part.
    config : dict
        The plan; a run on protected data is charged to ``ledger`` unless it names another.
    ledger : Path
        The deployment's.

    Raises
    ------
    InputError
        There is no member yet, or as :func:`fedpriv.config.build_experiment`.
    """
    if members.roster is None or not members.nodes:
        raise InputError("no node is a member yet; approve one's request with `fedpriv deploy approve`.")
    if members.roster.declared == "protected":
        config["run"].setdefault("ledger", str(ledger.resolve()))
    experiment = build_experiment(config, roster=members.roster)
    # The server does not know its nodes' policies: one may stop a task after some participations, so that what it sends
    # depends on the rounds before, and cohorts of fixed size are not amplified.
    strategy = experiment.strategy.for_updates(use_state=True)
    version = _is_new_version(experiment.ledger, experiment.population, members.roster.fingerprint)
    return experiment.model_copy(update={"strategy": strategy, "new_version": version})


def _refuse_nobody(folder: ServerFolder, members: Members) -> None:
    """Refuse a run that nobody would answer: it would be charged, and publish noise."""
    if "online" not in seen_nodes(folder, members).values():
        raise ComponentFailure(
            f"none of the {len(members.nodes)} nodes is online; start them with `fedpriv deploy node`, and see with "
            f"`fedpriv deploy status {folder.path}` when they are there."
        )


def _is_new_version(ledger: Path | None, population: str | None, fingerprint: str) -> bool | None:
    """Tell whether the population's ledger knows it with other members."""
    if ledger is None or population is None or not ledger.exists():
        return None
    with closing(Ledger(ledger)) as kept:
        known = population in kept.populations()
        return (known and kept.entered(population)["fingerprint"] != fingerprint) or None


@contextmanager
def _taken(folder: ServerFolder, run_config: Path) -> Iterator[ServerTask]:
    """Start a run on the SuperLink, and take it over."""
    settings = folder.settings()
    found = _flwr_json(folder, "run", str(folder.app), _LINK, "--run-config", str(run_config))
    wanted = int(found["run-id"])
    source = TaskSource(f"127.0.0.1:{settings.inner_port}", folder.authority[0], folder.secret, "server")
    try:
        deadline = time.monotonic() + _TAKE_SECONDS
        while time.monotonic() < deadline:
            task = source.take()
            if task is None:
                time.sleep(0.2)
                continue
            if not isinstance(task, ServerTask):
                raise ComponentFailure("the SuperLink handed out a node's task; start it with `fedpriv deploy serve`.")
            with task:
                task.pull()
                if task.run_id != wanted:  # one that died before it was taken
                    task.finish(None, "its server is gone")
                    continue
                yield task
                task.finish(None, None)
            return
        raise ComponentFailure(f"the SuperLink did not hand out the run within {_TAKE_SECONDS:g} s; see {folder.logs}.")
    finally:
        source.close()
