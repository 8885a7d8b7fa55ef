"""Shard processes that stay warm between runs: Ray and the libraries start once, tasks come and go."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from threading import Lock, Thread, current_thread, main_thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from fedpriv.errors import ComponentFailure, FedprivError, InputError
from fedpriv.own_code import Source, imported, refuse_other_sources
from fedpriv.runtime.short_folder import short_folder

if TYPE_CHECKING:
    from fedpriv.runtime.lines import Line
    from fedpriv.runtime.node import NodeSpec

__all__ = ["START_SECONDS", "ShardPool"]

START_SECONDS = 180
"""Seconds for a shard to start; on a cluster without a free core it would wait for ever."""


class _Shard:
    """The actor: a worker with one thread, since a second one made plain loops slower."""

    def __init__(self) -> None:
        import torch

        import fedpriv.runtime.grid  # noqa: F401 (the slow imports, while nobody waits yet)
        from fedpriv.cohort.fast.threads import one_thread_for_good

        one_thread_for_good()
        torch.set_flush_denormal(True)
        self._answering: Thread | None = None
        self._failure: str | None = None

    def follow(self, path: Sequence[str], sources: Sequence[Source]) -> None:
        """Look for modules where the driver does, in its order, before what comes refers to them."""
        self._sources = sources
        sys.path[:] = [*path, *(place for place in sys.path if place not in path)]
        importlib.invalidate_caches()

    def host(self, spec: NodeSpec, node_id: int) -> None:
        """Become a node; what was hosted before is forgotten as a whole, so nothing passes from run to run."""
        from fedpriv.runtime.flower_private import set_identity
        from fedpriv.runtime.grid import Worker

        refuse_other_sources(self._sources)  # the spec has imported what it refers to
        set_identity(node_id=node_id)
        self.worker = Worker(spec, node_id)
        self.worker.node.warm_up()

    def release(self) -> None:
        """Forget tasks and personal states."""
        self.hang_up()
        del self.worker

    def handle(self, message: bytes | bytearray, names: Sequence[str], *records: bytes) -> bytes:
        from fedpriv.runtime.wire import pack, unpack

        return pack(self.worker.handle(unpack(message, dict(zip(names, records, strict=True)))))

    def connect(self, address: str, number: int) -> bool:
        """Answer what comes over a line, too; False if there is no way to the server but Ray.

        A thread does it, so that Ray's calls come through. The server never calls before all lines have answered.
        """
        from fedpriv.runtime.lines import connect

        self.hang_up()
        self._failure = None
        line = connect(address, number)
        if line is not None:
            self._answering = Thread(target=self._answer, args=(line,), daemon=True)
            self._answering.start()
        return line is not None

    def hang_up(self) -> None:
        """Come to an end with what came over a line that the server has closed."""
        answering, self._answering = self._answering, None
        if answering is not None:
            answering.join()

    def _answer(self, line: Line) -> None:
        import torch

        from fedpriv.runtime.lines import answer

        torch.set_num_threads(1)  # both belong to the thread
        torch.set_flush_denormal(True)
        try:
            answer(line, lambda message: self.handle(message, []))
        except BaseException as error:  # whatever it is, the server is told
            self._failure = f"{type(error).__name__}: {error}"

    def failure(self) -> str | None:
        """Return what ended the line, if it was not the server."""
        self.hang_up()
        return self._failure

    def snapshot(self, directory: Path, number: int) -> None:
        self.worker.snapshot(directory, number)

    def restore(self, directory: Path, number: int) -> None:
        self.worker.restore(directory, number)

    def process(self) -> int:
        return os.getpid()


class ShardPool:
    """One Ray and its idle shards, for several grids one after the other.

    Nothing starts before a grid asks. A context manager: leaving it stops the shards, and Ray if the pool started it.

    Examples
    --------
    >>> with ShardPool() as pool:  # doctest: +SKIP
    ...     for experiment in experiments:
    ...         experiment.run(pool=pool)
    """

    _owner: ClassVar[ShardPool | None] = None
    """The pool that started this process's Ray."""
    _starting: ClassVar[Lock] = Lock()
    """Held while a pool looks whether Ray runs, and starts it: a process has one Ray."""

    def __init__(self) -> None:
        self._ray: Any = None
        self._address: str | None = None
        self._owned = False
        self._room = 0
        self._places = ExitStack()
        self._lent = False
        self._idle: list[Any] = []
        self._warming: Future[None] | None = None
        self._starter: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def ray(self) -> Any:
        """The Ray module, once :meth:`connect` was called."""
        return self._ray

    def connect(self, shards: int, address: str | None = None) -> None:
        """Start Ray with room for so many shards, or join a cluster; keep what runs already if it will do.

        Raises
        ------
        InputError
            Another run of this process has Ray, or the Ray that runs has too few cores.
        ComponentFailure
            Ray does not start.
        """
        with self._starting:
            if self._lent:
                raise InputError(
                    "this ShardPool is at work in another run; run one after the other, or each in its own process."
                )
            self._lent = True
        try:
            self._wait()
            self._connect(shards, address)
        except BaseException:
            self._lent = False
            raise
        _keep_signal(signal.getsignal(signal.SIGTERM))  # a start in another thread could not

    def _connect(self, shards: int, address: str | None) -> None:
        import ray

        from fedpriv.runtime.ray_private import asks_for_tokens

        if self._ray is not None:
            if address == self._address and (not self._owned or shards <= self._room):
                return
            self._disconnect()
        with self._starting:
            owned = not ray.is_initialized()
            if not owned and ShardPool._owner is not None:
                raise InputError(
                    "another run or ShardPool has this process's Ray, and there can be only one; run one after the "
                    "other, hand it over with run(pool=...), or set run.grid=in-process."
                )
            if owned:
                _start(ray, shards, address, self._places)
                ShardPool._owner = self
        if not owned and address is None and (cores := int(ray.cluster_resources().get("CPU", 0))) < shards:
            raise InputError(
                f"the Ray that runs in this process has {cores} cores, and {shards} shards need one each; set "
                f"run.shards={max(cores, 1)}, start Ray with more (num_cpus), or leave its start to fedpriv."
            )
        if (address or not owned) and not asks_for_tokens():
            logging.getLogger("fedpriv").warning(
                "the Ray cluster asks nobody for a token: whoever reaches its ports can read the tasks' data; start it "
                "and this program with RAY_AUTH_MODE=token and the same RAY_AUTH_TOKEN_PATH."
            )
        self._ray, self._address, self._owned, self._room = ray, address, owned, shards

    def warm(self, shards: int, address: str | None = None) -> None:
        """Let Ray and so many shards start in the background, while the caller gets the first run ready.

        What goes wrong is raised by the next :meth:`connect`.
        """

        def start() -> None:
            from fedpriv.cohort.purity import generators_kept

            with generators_kept():  # Ray draws from Python's, while the caller may look whether a module does
                self._connect(shards, address)
                self._idle += [self._new() for _ in range(shards - len(self._idle))]

        self._wait()
        # Ray's processes ask the kernel to die with the thread that started them: it has to live as long as they do.
        self._starter = self._starter or ThreadPoolExecutor(1)
        self._warming = self._starter.submit(start)

    def _wait(self) -> None:
        warming, self._warming = self._warming, None
        if warming is not None:
            warming.result()

    def take(self, specs: Sequence[NodeSpec]) -> dict[int, Any]:
        """Return a shard per spec by node number, from 1; idle ones first, and new ones where there are too few.

        Raises
        ------
        ComponentFailure
            A shard cannot be built.
        """
        wanted = dict(enumerate(specs, start=1))
        taken = {number: self._idle.pop() if self._idle else self._new() for number in wanted}
        try:
            asked = {number: self._host(taken[number], spec, number) for number, spec in wanted.items()}
            for number, answer in asked.items():
                try:
                    self._ray.get(answer, timeout=START_SECONDS)
                except self._ray.exceptions.RayActorError:  # it died while it was idle, or could not start
                    taken[number] = self._new()
                    self._ray.get(self._host(taken[number], wanted[number], number), timeout=START_SECONDS)
        except self._ray.exceptions.GetTimeoutError:
            self.stop(taken.values())
            raise ComponentFailure(
                f"{len(specs)} shards did not start within {START_SECONDS} s: Ray has no free core for each; use fewer."
            ) from None
        except Exception as error:
            self.stop(taken.values())
            if isinstance(error, self._ray.exceptions.RayTaskError) and isinstance(error.cause, FedprivError):
                raise error.cause from None
            # Ray hands on a traceback, whose last line says what happened.
            what = f"{type(error).__name__}: {error}".strip().splitlines()[-1].strip()
            advice = "use fewer shards, or --set run.grid=in-process"
            if what.startswith(("ImportError", "ModuleNotFoundError")):
                advice = "install it where the shards run, or use --set run.grid=in-process"
            raise ComponentFailure(f"a shard did not start on Ray: {what}; {advice}.") from error
        return taken

    def start(self, spec: NodeSpec, number: int) -> tuple[Any, Any]:
        """Return a new shard for a node, whose process is still starting, and what tells when it hosts the node."""
        shard = self._new()
        return shard, self._host(shard, spec, number)

    @staticmethod
    def _host(shard: Any, spec: NodeSpec, number: int) -> Any:
        """Ask a shard to become a node. Ray reads a call's arguments when its turn has come: after the path is set."""
        shard.follow.remote(_search_path(), imported())
        return shard.host.remote(spec, number)

    def give_back(self, shards: Sequence[Any]) -> None:
        """Take back what a grid still has, once it is done; shards forget their tasks and wait for new ones."""
        for shard in shards:
            shard.release.remote()
        self._idle += shards
        self._lent = False

    def stop(self, shards: Any) -> None:
        """Stop shards that may still be at work, or that nobody needs."""
        for shard in shards:
            self._ray.kill(shard)

    def close(self) -> None:
        """Stop the idle shards, and Ray if this pool started it."""
        with suppress(FedprivError):  # nobody asked for what did not start
            self._wait()
        self._disconnect()
        if self._starter is not None:
            self._starter.shutdown()
            self._starter = None

    def _disconnect(self) -> None:
        from fedpriv.runtime.ray_private import read_token

        if self._ray is not None:
            self.stop(self._idle)
            self._idle = []
            if self._owned:
                self._ray.shutdown()
                read_token()  # ours is of no use any more
                ShardPool._owner = None
            self._ray = None
        self._places.close()

    def _new(self) -> Any:
        # Spread over the nodes of a cluster, not packed onto the first.
        return self._ray.remote(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")(_Shard).remote()


def _search_path() -> list[str]:
    """Return where this process looks for modules; what is relative to its own folder in full."""
    places = [os.path.abspath(place) for place in sys.path if isinstance(place, str)]  # noqa: PTH100 ('' is a place)
    return list(dict.fromkeys(places))


def _start(ray: Any, shards: int, address: str | None, places: ExitStack) -> None:
    """Start Ray quietly, in a folder of its own that ``places`` removes; or join a cluster."""
    # Its advice about threads would land on stderr at every start; real errors still come as exceptions. What it says
    # about tokens is not silenced.
    logging.getLogger("ray._private.worker").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # Else Ray keeps a record of every call, which costs time and grows with the rounds.
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
    where: dict[str, Any] = (
        {"address": address}
        if address
        else {
            "address": "local",  # never a cluster that somebody else has started here
            "num_cpus": shards,
            "num_gpus": 0,
            "include_dashboard": False,
            "_metrics_export_port": 0,
        }
    )
    if not address and not os.environ.get("RAY_TMPDIR"):
        # Else in the system's temporary folder, whose path may be too long for sockets or not of plain letters. Ray
        # opens its folder to everybody, so it gets one inside of ours, which nobody else may enter: who can write there
        # can put a socket of his own in the place of the shards' memory.
        where["_temp_dir"] = str(places.enter_context(short_folder()) / "r")
    from fedpriv.runtime.ray_private import fresh_token, lean_start

    handler = signal.getsignal(signal.SIGTERM)
    try:
        with lean_start(), nullcontext() if address else fresh_token():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **where)
    except Exception as error:
        places.close()
        said = " ".join(str(error).split())
        if address:
            raise ComponentFailure(
                f"the Ray cluster at {address} cannot be joined ({said}); check that it runs there, and give its "
                "token by RAY_AUTH_MODE=token with RAY_AUTH_TOKEN_PATH, or use --set run.grid=in-process."
            ) from error
        where_to_look = "RAY_TMPDIR, " if os.environ.get("RAY_TMPDIR") else ""
        raise ComponentFailure(
            f"Ray did not start ({said}); check {where_to_look}memory and /dev/shm, or use --set run.grid=in-process."
        ) from error
    finally:
        _keep_signal(handler)


def _keep_signal(handler: Any) -> None:
    """Handle SIGTERM as before Ray started: its own handler prints a trace in C++ and aborts."""
    if handler is not None and current_thread() is main_thread():
        signal.signal(signal.SIGTERM, handler)
