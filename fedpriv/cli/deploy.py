"""``fedpriv deploy``: real machines. A server that runs are served from, and nodes that keep their data."""

from __future__ import annotations

import json
import logging
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from fedpriv.cli.options import (
    Assignments,
    DataDir,
    JsonFlag,
    PresetName,
    ScenarioName,
    path,
    path_option,
    say,
    say_json,
    show_table,
)
from fedpriv.errors import ComponentFailure, InputError

__all__ = [
    "deploy_add",
    "deploy_doctor",
    "deploy_init",
    "deploy_models",
    "deploy_node",
    "deploy_remove",
    "deploy_renew",
    "deploy_request",
    "deploy_run",
    "deploy_serve",
    "deploy_status",
]

Folder = Annotated[Path, typer.Argument(parser=path, metavar="DIR", help="Folder of the server's deployment.")]
OwnerPath = Annotated[Path, typer.Argument(parser=path, metavar="NODE.toml", help="File of the node's owner.")]


def deploy_init(
    folder: Folder,
    scenario: ScenarioName,
    host: Annotated[
        list[str], typer.Option(help="Name or address that nodes reach the server under; may be repeated.")
    ],
    preset: PresetName = None,
    assignments: Assignments = None,
    port: Annotated[int, typer.Option(help="Port that nodes speak to.")] = 8443,
    inner_port: Annotated[int, typer.Option(help="Port of Flower's server, on this machine alone.")] = 8010,
    listen: Annotated[str, typer.Option(help="Address of this machine that nodes come in on.")] = "0.0.0.0",  # noqa: S104
    roster: Annotated[
        Path | None, path_option("Roster of the population; nodes bring their tasks unless given.", "--roster")
    ] = None,
) -> None:
    """Make the folder of a server: plan, certificate authority, server's certificate, secrets, settings."""
    from fedpriv.config import apply, parse_assignments
    from fedpriv.deploy.layout import ServerSettings, make_server_folder, own_umask
    from fedpriv.deploy.members import Members
    from fedpriv.deploy.units import write_operator_files
    from fedpriv.scenarios import scenario as find

    own_umask()
    chosen = find(scenario)
    config = apply(chosen.preset(preset), parse_assignments(assignments or []))
    settings = ServerSettings(hosts=tuple(host), port=port, inner_port=inner_port, listen=listen)
    members = Members() if roster is None else Members.of_roster(roster)
    made = make_server_folder(folder, settings, {**config, "data": {}}, members)
    page, unit = write_operator_files(made)
    say(f"wrote {made.plan}, {made.settings_path} and the keys in {made.path / 'pki'}")
    say(f"{page} says what each file is and how to run the server; {unit.name} is its unit for systemd.")
    say(
        f"Hand {made.authority[0]} to the owner of each node. Keep {made.authority[1]} secret: whoever has it can pass "
        "for this server."
    )
    say(f"Now: fedpriv deploy serve {folder}")


def deploy_request(file: OwnerPath, data_dir: DataDir = None) -> None:
    """Make a node's key and its request to be let in: who its tasks are, and of what kind; no example and no label."""
    from fedpriv.deploy.certificates import make_node_key
    from fedpriv.deploy.layout import own_umask
    from fedpriv.deploy.members import NodeRequest
    from fedpriv.deploy.owner import OwnerFile
    from fedpriv.deploy.units import write_node_unit

    own_umask()
    owner = OwnerFile.read(file)
    key = file.with_name(f"{owner.name}.key")
    public = key.with_name(f"{key.name}.pub")
    line = public.read_text(encoding="utf-8").strip() if key.exists() else make_node_key(key)
    request = NodeRequest.of(owner.name, line, owner.tasks(data_dir).roster)
    written = file.with_name(f"{owner.name}.request.json")
    request.write(written)
    say(f"wrote {written}: a public key and the names of {len(request.names)} tasks, for whoever runs the server")
    say(f"{key} is this node's identity; keep it, and give it to nobody.")
    say(f"{write_node_unit(file, owner.name).name} is its unit for systemd.")


def deploy_add(folder: Folder, request: Annotated[Path, typer.Argument(parser=path, metavar="REQUEST.json")]) -> None:
    """Let a node in: between runs, as a new version of the population that goes on with its budget."""
    from fedpriv.deploy.layout import ServerFolder
    from fedpriv.deploy.members import NodeRequest
    from fedpriv.deploy.server import between_runs

    server = ServerFolder(folder)
    server.settings()
    asked = NodeRequest.read(request)
    with between_runs(server):
        members = server.members().approved(asked, dataset=folder.resolve().name)
        members.write(server.members_path)
    node = members.named(asked.name)
    say(f"node {node.name} hosts tasks {node.first} to {node.first + node.count - 1}; version {members.version}")
    say("It is let in when the server starts next, or a run does.")


def deploy_remove(folder: Folder, name: Annotated[str, typer.Argument(help="The node's name.")]) -> None:
    """Let a node in no more, as when its key was lost: between runs, as a new version of the population."""
    from fedpriv.deploy.layout import ServerFolder
    from fedpriv.deploy.server import between_runs

    server = ServerFolder(folder)
    server.settings()
    with between_runs(server):
        members = server.members().without(name)
        members.write(server.members_path)
    say(f"node {name} is no member any more; version {members.version}")


def deploy_renew(folder: Folder) -> None:
    """Make the server's certificate anew, for the names and addresses that deploy.toml lists now."""
    from fedpriv.deploy.certificates import expiry
    from fedpriv.deploy.layout import ServerFolder, own_umask, renew_certificate

    own_umask()
    server = ServerFolder(folder)
    hosts = server.settings().hosts
    renew_certificate(server, hosts)
    ends = expiry(server.certificate[0])
    say(f"the certificate is for {', '.join(hosts)} until {ends:%Y-%m-%d}; nodes notice nothing")
    say(f"Start `fedpriv deploy serve {folder}` anew, so that it is used.")


def deploy_serve(folder: Folder) -> None:
    """Run Flower's server behind the front until stopped."""
    from fedpriv.deploy.layout import ServerFolder, own_umask
    from fedpriv.deploy.server import serving

    own_umask()
    stop = _until_told()
    server = ServerFolder(folder)
    settings = server.settings()
    with serving(server) as watched:
        say(f"serving {', '.join(settings.hosts)} on port {settings.port}; stop with Ctrl-C")
        while not stop.wait(1.0):
            watched()


def deploy_node(file: OwnerPath, data_dir: DataDir = None) -> None:
    """Run a node until stopped: it connects to its owner's server and answers what the owner's policy allows."""
    from fedpriv.deploy.layout import own_umask
    from fedpriv.deploy.node import serve_node

    own_umask()
    logging.getLogger("fedpriv").setLevel(logging.INFO)
    serve_node(file, data_dir, _until_told())


def deploy_models(
    file: OwnerPath,
    out: Annotated[Path, path_option("Folder for the models; made, or empty.")],
    run: Annotated[str | None, typer.Option(help="Name of a finished run; the last one unless given.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Write the models of a node's own tasks after a run, for `fedpriv predict`; they stay on the node."""
    from fedpriv.deploy.layout import own_umask
    from fedpriv.deploy.models import personal_of_journal
    from fedpriv.personal import NOT_PROTECTED

    own_umask()
    personal = personal_of_journal(file, run, data_dir)
    personal.save(out)
    say(f"{len(personal):,} models in {out}, for you alone. {NOT_PROTECTED}")
    say(f"Now: fedpriv predict {out} --task TASK --input FILE")


def deploy_run(
    folder: Folder,
    out: Annotated[Path | None, path_option("Run folder; DIR/runs/run[-N] unless given.")] = None,
    assignments: Assignments = None,
    reproduce: Annotated[int | None, typer.Option(help="Fixes noise and coins, too, for tests: no guarantee.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Carry out a run with the nodes that are there; the exit code says how it ended."""
    from fedpriv.cli.run import print_result
    from fedpriv.config import parse_assignments
    from fedpriv.deploy.layout import ServerFolder, own_umask
    from fedpriv.deploy.server import run_deployed
    from fedpriv.progress import Progress
    from fedpriv.runs import free_folder

    own_umask()
    if resume and out is None:
        raise InputError("--resume needs --out: the folder of the run to go on with.")
    server = ServerFolder(folder)
    server.settings()
    place = out or free_folder(server.runs, "run")
    changes = parse_assignments(assignments or [])
    with Progress(quiet=as_json) as progress:
        result = run_deployed(server, place, changes=changes, reproduce=reproduce, resume=resume, progress=progress)
    if as_json:
        say_json({"run": str(place), **json.loads((place / "summary.json").read_text(encoding="utf-8"))})
        return
    print_result(result, place, draw=False)


def deploy_status(
    place: Annotated[
        Path, typer.Argument(parser=path, metavar="DIR|NODE.toml", help="Folder of a server, or file of a node.")
    ],
    as_json: JsonFlag = False,
) -> None:
    """Of a server: its nodes, the last run and what was spent. Of a node: what its tasks granted, by its own count."""
    from fedpriv.cli.deploy_words import say_node, say_server
    from fedpriv.deploy.layout import ServerFolder
    from fedpriv.deploy.status import node_status, server_status

    if place.is_file():
        found = node_status(place)
        say_json(found) if as_json else say_node(found)
        return
    server = ServerFolder(place)
    server.settings()
    found = server_status(server)
    say_json(found) if as_json else say_server(found)


def deploy_doctor(
    place: Annotated[
        Path, typer.Argument(parser=path, metavar="DIR|NODE.toml", help="Folder of a server, or file of a node.")
    ],
    data_dir: DataDir = None,
    as_json: JsonFlag = False,
) -> None:
    """Look at what a server or a node needs, and say what is wrong and what to do; the exit code is 0 if nothing is."""
    from fedpriv.deploy.doctor import node_checks, server_checks
    from fedpriv.deploy.layout import ServerFolder

    checks = list(node_checks(place, data_dir) if place.is_file() else server_checks(ServerFolder(place)))
    show_table([one.to_json() for one in checks], as_json)
    if wrong := [one.what for one in checks if one.state == "wrong"]:
        raise ComponentFailure(f"{place}: {len(wrong)} of {len(checks)} checks are wrong: {', '.join(wrong)}.")


def _until_told() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
