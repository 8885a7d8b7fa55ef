"""The front of a deployment, over real TLS: it passes what nodes ask, limits it, and logs what it refuses."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from fedpriv.deploy.certificates import make_authority, make_server_certificate
from fedpriv.deploy.front import front_command
from fedpriv.deploy.layout import ServerFolder, ServerSettings, make_server_folder
from fedpriv.deploy.members import Members
from fedpriv.deploy.processes import Process, answers, environment, free_port

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""Sockets of the server that stands in for the SuperLink."""

LARGEST = 2**16
LONGEST_SECONDS = 3.0


@dataclass
class Inner:
    """Stands where the SuperLink is, behind the front, and keeps what comes through."""

    port: int
    came: list[tuple[str, str, bytes, dict[str, str]]] = field(default_factory=list)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: Any) -> Iterator[tuple[ServerFolder, Inner, Process]]:
    root: Path = tmp_path_factory.mktemp("front")
    inner = Inner(free_port())
    settings = ServerSettings(
        hosts=("127.0.0.1",),
        port=free_port(),
        inner_port=inner.port,
        listen="127.0.0.1",
        largest_body_mebibytes=LARGEST / 2**20,
        longest_request_seconds=LONGEST_SECONDS,
    )
    folder = make_server_folder(root / "lab", settings, {"model": {"name": "mlp"}}, Members())

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            inner.came.append((self.command, self.path, body, {k.lower(): v for k, v in self.headers.items()}))
            code = 401 if self.path.endswith("/refuse") else 200
            self.send_response(code)
            self.send_header("content-length", "2")
            self.send_header("x-of-flower", "kept")
            self.end_headers()
            self.wfile.write(b"ok")

        do_GET = do_POST = do_PUT = do_DELETE = _any  # noqa: N815 (as the library calls them)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", inner.port), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*folder.certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with Process(front_command(folder), folder.logs / "front.log", environment(folder.home)) as front:
        front.wait_until_open(settings.port)
        yield folder, inner, front
    server.shutdown()


def client(folder: ServerFolder, **more: Any) -> httpx.Client:
    context = ssl.create_default_context(cafile=str(folder.authority[0]))
    return httpx.Client(base_url=f"https://127.0.0.1:{folder.settings().port}", verify=context, **more)


def logged(folder: ServerFolder, words: str) -> bool:
    """Wait until the front's log says something."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if words in (folder.logs / "front.log").read_text():
            return True
        time.sleep(0.05)
    return False


def test_what_nodes_ask_passes_as_it_is(lab: Any) -> None:
    folder, inner, _ = lab
    with client(folder) as mine:
        found = mine.post("/v1/fleet/pull-messages", content=b"signed", headers={"x-signature": "abc"})
    assert (found.status_code, found.content, found.headers["x-of-flower"]) == (200, b"ok", "kept")
    method, path, body, headers = inner.came[-1]
    assert (method, path, body, headers["x-signature"]) == ("POST", "/v1/fleet/pull-messages", b"signed", "abc")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", path) for path in ("/", "/v1/control/register-node", "/v1/runtime/acquire-task", "/v1/fleet", "/x")),
        *(("POST", f"/v1/fleet/{path}") for path in ("../control/x", "%2e%2e/control/x", "/x", "a/..%2f..%2fcontrol")),
        *((method, "/v1/fleet/pull-messages") for method in ("GET", "PUT", "DELETE")),
        ("POST", "/V1/FLEET/pull-messages"),
        ("POST", "//v1/fleet/pull-messages"),
    ],
)
def test_nothing_else_passes_and_it_is_logged(lab: Any, method: str, path: str) -> None:
    folder, inner, _ = lab
    before = len(inner.came)
    said = raw(
        folder, f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx".encode()
    )
    assert said.split(b" ")[1] in (b"404", b"405"), said[:100]
    assert len(inner.came) == before
    assert logged(folder, "refused: only what nodes ask passes here")


def raw(folder: ServerFolder, sent: bytes) -> bytes:
    """Send bytes over TLS as they are, and return what comes until the connection ends."""
    context = ssl.create_default_context(cafile=str(folder.authority[0]))
    with (
        socket.create_connection(("127.0.0.1", folder.settings().port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as mine,
    ):
        mine.sendall(sent)
        found = b""
        while part := mine.recv(4096):
            found += part
    return found


def test_bodies_are_limited_whether_their_size_is_said_or_not(lab: Any) -> None:
    folder, inner, _ = lab
    before = len(inner.came)
    with client(folder) as mine:
        assert mine.post("/v1/fleet/push-object", content=b"x" * LARGEST).status_code == 200
        assert mine.post("/v1/fleet/push-object", content=b"x" * (LARGEST + 1)).status_code == 413
        parts = (b"x" * 4096 for _ in range(LARGEST // 4096 + 1))
        assert mine.post("/v1/fleet/push-object", content=parts).status_code == 413
    assert len(inner.came) == before + 1
    assert logged(folder, "is larger than")


def test_a_request_with_two_lengths_does_not_pass(lab: Any) -> None:
    folder, inner, _ = lab
    before = len(inner.came)
    head = "POST /v1/fleet/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    smuggled = "0\r\n\r\nPOST /v1/control/register-node HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    raw(folder, f"{head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n{smuggled}".encode())
    raw(folder, f"{head}Content-Length: 1\r\nContent-Length: 9\r\n\r\nx{smuggled}".encode())
    assert [path for _, path, _, _ in inner.came[before:] if "control" in path] == []


def test_a_signature_passes_once(lab: Any) -> None:
    """Flower's signature covers the time alone: a request that was read could be sent again, with another body."""
    folder, inner, _ = lab
    with client(folder) as mine:

        def ask(signature: str, path: str = "pull-messages") -> int:
            return int(mine.post(f"/v1/fleet/{path}", content=b"x", headers={"flwr-signature": signature}).status_code)

        assert ask("one") == 200
        passed = len(inner.came)
        assert ask("one") == 401
        assert ask("one", "push-messages") == 401
        assert len(inner.came) == passed, "the SuperLink never saw it"
        assert ask("two") == 200
        assert logged(folder, "its signature was used before")
        # What the SuperLink refuses is not kept: strangers cannot fill the memory, and a node that tries again may.
        assert [ask("three", "refuse"), ask("three")] == [401, 200]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: x\r\nx-slow: ",
        b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf",
    ],
)
def test_who_says_nothing_or_stops_half_way_is_hung_up_on(lab: Any, sent: bytes) -> None:
    folder, inner, _ = lab
    passed = len(inner.came)
    said = raw(folder, sent)
    assert said == b"" or b" 408 " in said.splitlines()[0]
    assert logged(folder, "a body took longer than" if said else "no request within")
    assert len(inner.came) == passed


def test_a_refusal_of_the_superlink_reaches_the_node_and_the_log(lab: Any) -> None:
    folder, _, _ = lab
    with client(folder) as mine:
        assert mine.post("/v1/fleet/refuse").status_code == 401
    assert logged(folder, "'/v1/fleet/refuse' refused by the SuperLink (401)")


def test_a_path_writes_no_line_of_its_own_into_the_log(lab: Any) -> None:
    folder, _, _ = lab
    head = b"POST /x%0a1999-01-01%20nothing%1b%5b31m HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
    raw(folder, head + b"Connection: close\r\n\r\n")
    assert logged(folder, "nothing")
    text = (folder.logs / "front.log").read_text()
    assert not any(line.startswith("1999") for line in text.splitlines())
    assert "\x1b" not in text


def test_who_does_not_speak_its_tls_gets_nowhere_and_is_logged(lab: Any, tmp_path: Path) -> None:
    folder, inner, _ = lab
    before, port = len(inner.came), folder.settings().port
    with pytest.raises((httpx.HTTPError, ssl.SSLError)):
        httpx.post(f"http://127.0.0.1:{port}/v1/fleet/x", content=b"x")
    other = (tmp_path / "ca.crt", tmp_path / "ca.key")
    make_authority(*other)
    context = ssl.create_default_context(cafile=str(other[0]))
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        httpx.post(f"https://127.0.0.1:{port}/v1/fleet/x", content=b"x", verify=context)
    assert len(inner.came) == before
    assert logged(folder, "no TLS connection: HTTP_REQUEST"), "who speaks no TLS"
    assert logged(folder, "no TLS connection: TLSV1_ALERT_UNKNOWN_CA"), "who does not trust our authority"


def test_a_server_without_a_superlink_says_so(tmp_path: Path) -> None:
    settings = ServerSettings(hosts=("127.0.0.1",), port=free_port(), inner_port=free_port(), listen="127.0.0.1")
    folder = make_server_folder(tmp_path / "lab", settings, {"model": {"name": "mlp"}}, Members())
    with Process(front_command(folder), folder.logs / "front.log", environment(folder.home)) as front:
        front.wait_until_open(settings.port)
        with client(folder) as mine:
            assert mine.post("/v1/fleet/x").status_code == 502
    assert "the SuperLink does not answer" in (folder.logs / "front.log").read_text()


@pytest.mark.parametrize("listen", ["127.0.0.2", "0.0.0.0"])
def test_a_front_is_waited_for_on_the_address_that_it_listens_on(tmp_path: Path, listen: str) -> None:
    settings = ServerSettings(hosts=("localhost",), port=free_port(), inner_port=free_port(), listen=listen)
    folder = make_server_folder(tmp_path / "lab", settings, {"model": {"name": "mlp"}}, Members())
    with Process(front_command(folder), folder.logs / "front.log", environment(folder.home)) as front:
        front.wait_until_open(settings.port, listen=listen)
        assert answers(listen, settings.port)
        assert answers("127.0.0.1", settings.port) is (listen == "0.0.0.0")


def test_an_expired_certificate_is_refused_by_nodes(tmp_path: Path) -> None:
    settings = ServerSettings(hosts=("127.0.0.1",), port=free_port(), inner_port=free_port(), listen="127.0.0.1")
    folder = make_server_folder(tmp_path / "lab", settings, {"model": {"name": "mlp"}}, Members())
    make_server_certificate(*folder.certificate, authority=folder.authority, hosts=["127.0.0.1"], days=0)
    code = (
        "import sys; from pathlib import Path; from datetime import UTC, datetime; "
        "from fedpriv.deploy.certificates import expiry; print(expiry(Path(sys.argv[1])) <= datetime.now(UTC))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder.certificate[0])], capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr
    with Process(front_command(folder), folder.logs / "front.log", environment(folder.home)) as front:
        front.wait_until_open(settings.port)
        with pytest.raises(httpx.ConnectError, match="certificate has expired"), client(folder) as mine:
            mine.post("/v1/fleet/x")
