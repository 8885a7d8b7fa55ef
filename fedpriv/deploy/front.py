"""The front of a deployment: all that strangers can reach. It passes what nodes say to the SuperLink, and no more.

The SuperLink has three interfaces on one port, and asks nodes alone who they are: whoever reached the others could
register keys of his own. So it listens on this machine only, and nodes speak to this proxy: TLS with the deployment's
certificate, paths of nodes only, bodies of limited size, and a line in the log for whatever is refused. It is made of
the server (uvicorn), toolkit (starlette) and client (httpx) that Flower is made of, so it needs nothing else; an nginx
that does the same is a choice of the operator's.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from fedpriv.deploy.layout import ServerFolder

__all__ = ["front_app", "front_command", "main"]

_LOG = logging.getLogger("fedpriv.front")
_SIGNATURE = "flwr-signature"
"""Header with which Flower's nodes prove that they hold a registered key."""

NODES = "/v1/fleet/"
"""Prefix of what nodes ask; each such request is signed with a registered key, which the SuperLink checks."""

_ACROSS = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "trailer", "host", "content-length"}
)
"""Headers that are about one connection, and those that are made anew."""

_WAIT_SECONDS = 60.0
_SIGNED_SECONDS = 320.0
"""For longer than this the SuperLink takes no signature."""
_ONLY = "only what nodes ask passes here"


def front_command(folder: ServerFolder) -> list[str]:
    """Return the command that runs the front in a process of its own."""
    return [sys.executable, "-m", "fedpriv.deploy.front", str(folder.path)]


def front_app(inner: str, authority: Path, largest_bytes: int, longest_seconds: float) -> Starlette:
    """Return the proxy.

    Parameters
    ----------
    inner : str
        Host and port of the SuperLink.
    authority : Path
        Certificate of who signed its certificate.
    largest_bytes : int
        Largest body that passes, in either direction of a request.
    longest_seconds : float
        How long a body may take to arrive.
    """
    used = _UsedSignatures()
    context = ssl.create_default_context(cafile=str(authority))
    client = httpx.AsyncClient(base_url=f"https://{inner}", verify=context, timeout=_WAIT_SECONDS)

    async def forward(request: Request) -> Response:
        path = request.url.path
        # Not normalised by anybody on the way: a path with .. in it is no path of nodes.
        if not path.startswith(NODES) or ".." in path or "//" in path or request.method != "POST":
            return _refused(request, 404, _ONLY)
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > largest_bytes:
            return _refused(request, 413, f"a body of {declared} bytes is larger than {largest_bytes}")
        try:
            async with asyncio.timeout(longest_seconds):
                body = await _limited(request, largest_bytes)
        except ClientDisconnect:
            return _refused(request, 400, "the body ended early")
        except TimeoutError:
            return _refused(request, 408, f"a body took longer than {longest_seconds:g} s to arrive")
        if body is None:
            return _refused(request, 413, f"a body is larger than {largest_bytes} bytes")
        headers = [
            (name, value) for name, value in request.headers.raw if name.decode("latin-1").lower() not in _ACROSS
        ]
        signature = request.headers.get(_SIGNATURE, "")
        if not used.first_time(signature):
            return _refused(request, 401, "its signature was used before, and a node signs each request anew")
        found = None
        try:
            # No query passes, since Flower's nodes have none.
            found = await client.request("POST", path, content=body, headers=headers)
        except httpx.HTTPError as error:
            return _refused(request, 502, f"the SuperLink does not answer ({type(error).__name__})")
        finally:
            if found is None or found.status_code >= 400:  # else strangers could fill the memory with theirs
                used.forget(signature)
        if found.status_code >= 400:
            _LOG.warning("%s: %s refused by the SuperLink (%d)", _who(request), ascii(path[:200]), found.status_code)
        kept = {
            name: value for name, value in found.headers.items() if name.lower() not in _ACROSS | {"content-encoding"}
        }
        return Response(found.content, status_code=found.status_code, headers=kept)

    @asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        yield
        await client.aclose()

    async def unmatched(request: Request, _: Exception) -> Response:
        return _refused(request, 404, _ONLY)  # such as a path with a line end

    methods = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]
    return Starlette(
        routes=[Route("/{path:path}", forward, methods=methods)], lifespan=life, exception_handlers={404: unmatched}
    )


class _UsedSignatures:
    """Signatures that the SuperLink accepted.

    One covers the time alone and holds for five minutes: whoever had read one request could send others under it.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def first_time(self, signature: str) -> bool:
        """Tell whether a signature was not used before, and keep that it is used now."""
        now = time.monotonic()
        while self._until and (oldest := next(iter(self._until.items())))[1] < now:
            del self._until[oldest[0]]
        if signature in self._until:
            return False
        if signature:
            self._until[signature] = now + _SIGNED_SECONDS
        return True

    def forget(self, signature: str) -> None:
        """Forget a signature that was not accepted."""
        self._until.pop(signature, None)


async def _limited(request: Request, largest: int) -> bytes | None:
    """Return the body, or None as soon as it is too large."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > largest:
            return None
        parts.append(part)
    return b"".join(parts)


def _refused(request: Request, code: int, why: str) -> Response:
    # As Python writes a text: a path with a line end would be a line of somebody's own in the log.
    _LOG.warning("%s: %s %s refused: %s", _who(request), request.method, ascii(request.url.path[:200]), why)
    # What is left of its body is not waited for.
    return PlainTextResponse(f"{why}\n", status_code=code, headers={"connection": "close"})


def _who(request: Request) -> str:
    return "somebody" if request.client is None else request.client.host


def _limited_protocol(longest_seconds: float) -> type[H11Protocol]:
    """Return uvicorn's protocol, which by itself waits for headers for ever, with a limit."""

    class Limited(H11Protocol):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._begin()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:  # the headers are not all there
                self._begin()
            else:
                self._end()

        def connection_lost(self, exc: Exception | None) -> None:
            self._end()
            super().connection_lost(exc)

        def _begin(self) -> None:
            if self._timer is None:
                self._timer = self.loop.call_later(longest_seconds, self._too_slow)

        def _end(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            who = "somebody" if self.client is None else self.client[0]
            _LOG.warning("%s: no request within %g s; refused", who, longest_seconds)
            self.transport.abort()

    return Limited


class _LoggedConnection(ssl.SSLObject):
    """A TLS connection that logs why it failed; asyncio says so in debug mode only."""

    def do_handshake(self) -> None:
        """Shake hands."""
        with _failure_logged():
            super().do_handshake()

    def read(self, length: int = 1024, buffer: Any = None) -> Any:
        """Read; a client that does not trust our certificate says so after it shook hands."""
        with _failure_logged():
            return super().read(length, buffer) if buffer is not None else super().read(length)


@contextmanager
def _failure_logged() -> Iterator[None]:
    try:
        yield
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLZeroReturnError, ssl.SSLEOFError):
        raise
    except ssl.SSLError as error:
        _LOG.warning("somebody: no TLS connection: %s", error.reason or "no reason given")
        raise


def main(path: str) -> None:
    """Run the front of a deployment's folder until it is told to stop."""
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    folder = ServerFolder(Path(path))
    settings = folder.settings()
    certificate, key = folder.certificate
    app = front_app(
        f"127.0.0.1:{settings.inner_port}",
        folder.authority[0],
        int(settings.largest_body_mebibytes * 2**20),
        settings.longest_request_seconds,
    )
    config = uvicorn.Config(
        app,
        host=settings.listen,
        port=settings.port,
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
        loop="asyncio",
        http=_limited_protocol(settings.longest_request_seconds),
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=512,
        timeout_keep_alive=75,
    )
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
        config.ssl.sslobject_class = _LoggedConnection
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main(sys.argv[1])
