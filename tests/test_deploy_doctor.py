"""The doctor finds what is wrong with a server or a node, and says what to do; without a fault it finds none."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from test_deploy_node import OWNER, RUN, ask, host, request
from test_deploy_status import PLAN, lab

from fedpriv.deploy import doctor
from fedpriv.deploy.certificates import make_authority, make_node_key, make_server_certificate
from fedpriv.deploy.doctor import Check, node_checks, server_checks
from fedpriv.deploy.journal import RunJournal
from fedpriv.deploy.layout import ServerFolder, renew_certificate
from fedpriv.deploy.owner import OwnerFile
from fedpriv.deploy.reach import AHEAD_SECONDS, BEHIND_SECONDS, Reached, reach

__all__ = ["lab"]
assert PLAN


def by_name(checks: Any) -> dict[str, Check]:
    return {one.what: one for one in checks}


def wrong(checks: Any) -> set[str]:
    return {one.what for one in checks if one.state == "wrong"}


def test_a_server_s_folder_as_it_was_made_has_nothing_wrong(lab: ServerFolder, fedpriv: Any) -> None:
    assert wrong(server_checks(lab)) == set()
    code, said, _ = fedpriv("deploy", "doctor", str(lab.path), "--json")
    assert code == 0
    found = {one["what"]: one for one in json.loads(said)}
    assert found["front"]["state"] == "warning", "nothing serves it"
    assert "fedpriv deploy serve" in found["front"]["found"]
    assert "fits the 200 tasks" in found["plan"]["found"]


def _expired(lab: ServerFolder, _: pytest.MonkeyPatch) -> None:
    make_server_certificate(*lab.certificate, authority=lab.authority, hosts=["localhost"], days=0)


def _of_another(lab: ServerFolder, _: pytest.MonkeyPatch) -> None:
    authority = (lab.path / "other.crt", lab.path / "other.key")
    make_authority(*authority)
    make_server_certificate(*lab.certificate, authority=authority, hosts=["localhost"])


def _for_another(lab: ServerFolder, _: pytest.MonkeyPatch) -> None:
    make_server_certificate(*lab.certificate, authority=lab.authority, hosts=["elsewhere.example.org"])


FAULTS: list[tuple[Callable[[ServerFolder, pytest.MonkeyPatch], Any], str, str]] = [
    (lambda lab, _: lab.authority[1].chmod(0o644), "authority's key", "others may read it"),
    (lambda lab, _: lab.secret.parent.chmod(0o755), "folder pki", "others may go in"),
    (lambda lab, _: lab.path.chmod(0o770), "folder lab", "chmod 700"),
    (lambda lab, _: lab.secret.unlink(), "secret of runs", "not there"),
    (_expired, "certificate's end", "deploy renew"),
    (_of_another, "certificate", "was not signed by ca.crt"),
    (_for_another, "certificate", "is not for localhost"),
    (lambda lab, _: lab.certificate[0].write_text("x"), "certificate", "cannot be read"),
    (lambda lab, _: lab.members_path.write_text("{"), "list of members", "cannot be read"),
    (lambda lab, _: lab.plan.write_text('[model]\nname = "nothing"\n'), "plan", "nothing"),
    (lambda lab, _: lab.ledger.write_bytes(b"x" * 5000), "ledger", "restore"),
    (lambda lab, _: (lab.path / "state" / "news.json").write_text("{"), "state of the last run", "damaged"),
]


@pytest.mark.parametrize(("fault", "what", "words"), FAULTS, ids=[f"{what}-{words[:12]}" for _, what, words in FAULTS])
def test_what_is_wrong_with_a_server_is_found(
    lab: ServerFolder, monkeypatch: pytest.MonkeyPatch, fedpriv: Any, fault: Any, what: str, words: str
) -> None:
    fault(lab, monkeypatch)
    found = by_name(server_checks(lab))
    assert found[what].state == "wrong"
    assert words in found[what].found
    code, _, said = fedpriv("deploy", "doctor", str(lab.path))
    assert code != 0
    assert what in said
    if what.startswith("certificate"):  # as it advises
        assert fedpriv("deploy", "renew", str(lab.path))[0] == 0
        assert wrong(server_checks(lab)) == set()


def test_whoever_answers_on_the_port_must_show_the_certificate_of_this_folder(lab: ServerFolder) -> None:
    with socket.create_server(("127.0.0.1", lab.settings().port)) as server:
        server.settimeout(60.0)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*lab.certificate)

        def serve() -> None:
            while True:
                try:
                    with context.wrap_socket(server.accept()[0], server_side=True):
                        pass
                except ssl.SSLError:
                    continue  # who only looks whether somebody is there
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        assert by_name(server_checks(lab))["front"].state == "ok"
        renew_certificate(lab, ["localhost"])
        assert "start `fedpriv deploy serve" in by_name(server_checks(lab))["front"].found
        assert wrong(server_checks(lab)) == {"front"}, "the old certificate, or another deployment's"


def test_who_speaks_no_tls_on_the_port_is_not_ours(lab: ServerFolder) -> None:
    server = HTTPServer(("127.0.0.1", lab.settings().port), BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert wrong(server_checks(lab)) == {"front"}
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """The file of an owner whose node answered one round; no server is there."""
    ask(host(tmp_path), request(1))
    file = tmp_path / "node.toml"
    text = OWNER.format(top="", policy="max_epsilon = 3.0", allow="").replace("protected", "benchmark")
    file.write_text(text.replace('"digits"', '"digits"\npartition = "dirichlet"\nalpha = 0.3\ntasks = 4'))
    make_node_key(tmp_path / "a.key")
    return file


def test_what_is_wrong_with_a_node_is_found(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wrong(node_checks(node)) == {"server"}, by_name(node_checks(node))["data"].found
    found = by_name(node_checks(node))
    assert "does not answer as it should" in found["server"].found or "cannot be read" in found["server"].found
    assert "data.seed 0" in found["data"].found
    assert found["journals"].found.startswith("1 of")
    (node.parent / "a.key").chmod(0o640)
    assert "node's key" in wrong(node_checks(node))
    (node.parent / "a.key").unlink()
    assert "fedpriv deploy request node.toml" in by_name(node_checks(node))["node's key"].found
    node.write_text(OWNER.format(top="", policy="", allow=""))
    assert by_name(node_checks(node))["policy"].state == "warning"
    journal = RunJournal(node.parent / "node.journal", RUN)
    journal.path.write_bytes(journal.path.read_bytes()[:-40])
    assert "journals" in wrong(node_checks(node))
    (node.parent / "node.journal" / "account.json").write_text("{")
    assert "account" in wrong(node_checks(node))
    monkeypatch.setattr(doctor, "_LEAST_FREE_GIB", 1e9)
    assert by_name(node_checks(node))["disk"].state == "warning"


@pytest.mark.parametrize(
    ("ahead", "fine"),
    [(0.0, True), (AHEAD_SECONDS, True), (60.0, False), (-300.0, True), (-BEHIND_SECONDS - 10, False)],
)
def test_clocks_that_are_too_far_apart_are_said(ahead: float, fine: bool) -> None:
    said = Reached(ahead_seconds=ahead).clock_trouble
    assert (said == "") is fine
    assert fine or f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's" in said


def test_the_clock_of_a_server_is_read_from_its_answer(tmp_path: Path) -> None:
    authority = (tmp_path / "ca.crt", tmp_path / "ca.key")
    make_authority(*authority)
    make_server_certificate(tmp_path / "s.crt", tmp_path / "s.key", authority=authority, hosts=["127.0.0.1"])

    class Late(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(404)
            self.send_header("date", format_datetime(datetime.now(UTC) - timedelta(seconds=100), usegmt=True))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Late)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "s.crt", tmp_path / "s.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    text = OWNER.format(top="", policy="", allow="").replace("127.0.0.1:1", f"127.0.0.1:{server.server_port}")
    (tmp_path / "node.toml").write_text(text)
    owner = OwnerFile.read(tmp_path / "node.toml")
    found = reach(owner, tmp_path)
    assert found.ahead_seconds == pytest.approx(100.0, abs=30.0)
    make_authority(tmp_path / "ca.crt", tmp_path / "other.key")
    assert "certificate" in reach(owner, tmp_path).trouble.lower()
    server.shutdown()
    server.server_close()
