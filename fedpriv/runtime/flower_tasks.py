"""Everything of Flower's interface for long-lived workers, which is not public API, in one place.

A SuperLink and a SuperNode hand out *tasks* (a message to answer, a run to serve) to whoever proves that it knows a
secret file. Flower's own way starts a process for each; ours are taken by a process that has imported everything once.
The app bundle that comes with a task is never opened. Tested with flwr 1.41 and 1.42.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from flwr.app import Context, Message, RecordDict
from flwr.common.constant import SubStatus
from flwr.common.serde import context_to_proto, recorddict_from_proto, recorddict_to_proto, run_from_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest, PushTaskOutputRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from fedpriv.errors import ComponentFailure

__all__ = ["ClientTask", "ServerTask", "TaskSource", "content_from", "content_to_bytes", "link_errors"]

_PATIENCE_SECONDS = 120.0
"""How long a run waits for Flower's server to come back. It gives a run up after a minute, so more would be in vain."""

_ACQUIRE = frozenset({"/flwr.proto.Runtime/AcquireTask"})


@contextmanager
def link_errors() -> Iterator[None]:
    """Turn what Flower raises when its server is gone, or has given a run up, into a sentence.

    For a run that is given up Flower raises an error that is no ``Exception``, so it would end the process.

    Raises
    ------
    ComponentFailure
        Says how to go on.
    """
    try:
        yield
    except RunNotRunningException:
        raise ComponentFailure(
            "Flower's server has given this run up, as it does when one of the two is away for a minute; go on with "
            "--resume."
        ) from None
    except httpx.HTTPError as error:
        raise ComponentFailure(
            f"Flower's server does not answer as it should ({type(error).__name__}); see that `fedpriv deploy serve` "
            "runs, then go on with --resume."
        ) from error


def content_to_bytes(content: RecordDict) -> bytes:
    """Return a message's content as bytes."""
    found: bytes = recorddict_to_proto(content).SerializeToString(deterministic=True)
    return found


def content_from(value: bytes) -> RecordDict:
    """Read what :func:`content_to_bytes` made.

    Raises
    ------
    ValueError
        It is something else.
    """
    try:
        return recorddict_from_proto(ProtoRecordDict.FromString(value))
    except (DecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a message's content is damaged ({type(error).__name__})") from None


class TaskSource:
    """Where tasks are handed out: a SuperLink or a SuperNode on this machine.

    Parameters
    ----------
    address : str
        Host and port.
    certificates : Path or None
        The authority that signed its certificate; None for a plain connection, for a node's own loopback only.
    secret : Path
        The file whose content it asks for.
    kind : {"server", "client"}
        Which tasks to take.
    patience_seconds : float
        How long to try again when nobody answers.
    """

    def __init__(
        self, address: str, certificates: Path | None, secret: Path, kind: str, patience_seconds: float = 60.0
    ) -> None:
        self.address = address
        self._certificates = None if certificates is None else certificates.read_bytes()
        self._kind = TaskType.SERVER_APP if kind == "server" else TaskType.CLIENT_APP
        self._retry = make_simple_http_retry_invoker()
        self._retry.max_time = patience_seconds
        self._client = self._connected(
            SuperExecAuthHttpInterceptor(master_secret=secret.read_bytes(), protected_methods=_ACQUIRE), "SuperExec"
        )

    def take(self) -> ClientTask | ServerTask | None:
        """Return the oldest task that waits, or None."""
        found = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=[self._kind]))
        if not found.HasField("task") or not found.token:
            return None
        if self._kind is TaskType.SERVER_APP:
            return ServerTask(self.address, self._certificates, found.token)
        return ClientTask(self._connected(RuntimeTokenHttpInterceptor(found.token), "flwr-clientapp"))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _connected(self, proof: Any, name: str) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            server_address=self.address,
            insecure=self._certificates is None,
            root_certificates=self._certificates,
            interceptors=[RuntimeVersionHttpInterceptor(component_name=name), proof],
            retry_invoker=self._retry,
        )


class _Task:
    """A task at work: it says that it is alive until it is finished."""

    def __init__(self, client: RuntimeHttpClient) -> None:
        self._client = client
        self._heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
        self._finished = False

    def __enter__(self) -> Self:
        self._heartbeat.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._finished:
            with suppress(ComponentFailure):  # what went wrong is on its way already
                self.finish(None, "" if kind is None else kind.__name__)
        if self._heartbeat.is_running:
            self._heartbeat.stop()
        self._client.close()

    def finish(self, context: Context | None, failure: str | None) -> None:
        """Say that the task is done (``failure`` None), or why it is not."""
        self._finished = True
        with link_errors():
            self._client.PushTaskOutput(
                PushTaskOutputRequest(
                    context=context_to_proto(context) if context else None,
                    sub_status=SubStatus.COMPLETED if failure is None else SubStatus.FAILED,
                    details=failure or "",
                )
            )


class ClientTask(_Task):
    """One message for a node."""

    def pull(self) -> tuple[Message, Context, dict[str, Any]]:
        """Return the message, its context, and what the run's owner gave as the run's configuration."""
        with link_errors():
            message, context, run, _ = pull_task_input(self._client)
        return message, context, dict(run.override_config)

    def answer(self, reply: Message, context: Context) -> None:
        """Hand over the reply; the context goes back empty, since nothing of a task may live there."""
        with link_errors():
            push_message(self._client, reply, context)
        context.state = RecordDict()
        self.finish(context, None)


class ServerTask(_Task):
    """One run to serve, with the grid that reaches its nodes."""

    def __init__(self, address: str, certificates: bytes | None, token: str) -> None:
        self.grid = HttpGrid(
            runtime_api_address=address,
            insecure=certificates is None,
            root_certificates=certificates,
            token=token,
        )
        self.grid._retry_invoker.max_time = _PATIENCE_SECONDS
        super().__init__(self.grid._runtime_client)
        self.run_id = 0

    def pull(self) -> dict[str, Any]:
        """Take the run over; return the configuration that it was started with."""
        found = self._client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id = found.task_id
        TaskIdentity.run_id = found.run.run_id
        TaskIdentity.node_id = found.context.node_id
        run = run_from_proto(found.run)
        self.run_id = run.run_id
        self.grid.set_run(run)
        return dict(run.override_config)
