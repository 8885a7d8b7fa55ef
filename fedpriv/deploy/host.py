"""One node on a real machine: its tasks, a journal for each run, and the account of everything it ever granted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict

from fedpriv.cohort.fast.threads import one_torch_thread
from fedpriv.cohort.tasks import Tasks
from fedpriv.deploy.configuration import CONFIG_KEY, digest_of, node_spec
from fedpriv.deploy.journal import LastingMemory, NodeAccount, RunJournal
from fedpriv.deploy.members import kind_of_data
from fedpriv.deploy.old_runs import KEPT_RUNS, OldRuns
from fedpriv.deploy.owner import OwnerFile, state_folder
from fedpriv.deploy.packing import pack, unpack
from fedpriv.deploy.refusal import Refusal
from fedpriv.errors import ComponentFailure, FedprivError
from fedpriv.files import kept_secret, private_directory
from fedpriv.protocol import Request, RunName
from fedpriv.runtime.apps import client_app
from fedpriv.runtime.node import Node
from fedpriv.strategies.exchange import REFUSED_CODE

__all__ = ["FAILED_CODE", "PLACE", "NodeHost"]

PLACE = "place"
"""Record in which a server says which id of the population a node's first task has."""

FAILED_CODE = 2
"""Code of an answer that could not be given; Flower's own for an exception."""
_LAST = "train.finish"
"""What the last fit is asked by: after it a node has its personal models."""


class NodeHost:
    """Answers the messages of all runs for one node.

    Parameters
    ----------
    owner : OwnerFile
        What the owner decides.
    file : Path
        That file; journal, account and secret lie in the folder beside it that ends in ``.journal``.
    tasks : Tasks
        The node's own.
    """

    def __init__(self, owner: OwnerFile, file: Path, tasks: Tasks) -> None:
        self._owner, self._folder, self._tasks = owner, file.resolve().parent, tasks
        self._kept = state_folder(file.resolve())
        private_directory(self._kept)
        self._account = NodeAccount(self._kept / "account.json")
        self._old = OldRuns(self._kept)
        self._secret = kept_secret(self._kept / "noise.key")
        self._node: Node | None = None
        self._memory = LastingMemory()
        self._journal: RunJournal | None = None
        self._key: tuple[RunName, str, int] | None = None
        self._app = client_app(lambda _: self._ready(), after=lambda _node, _context: self._keep())

    @property
    def tasks(self) -> Tasks:
        """The node's own tasks, counted from 0."""
        return self._tasks

    def answer(self, message: Message, context: Context, config: dict[str, Any]) -> Message:
        """Return the reply to a message; whatever fails becomes an error without a value of the data.

        Parameters
        ----------
        message : Message
            As Flower delivers it; nothing in it is trusted.
        context : Context
            Of Flower; nothing is kept there.
        config : dict
            What the run was started with.
        """
        try:
            if message.has_content():
                message.content = _opened(message.content)
            self._prepare(message, config)
            with one_torch_thread():
                reply = self._app(message, context)
            if message.metadata.message_type == _LAST and not reply.has_error() and self._journal is not None:
                self._journal.keep_last(Request.from_content(message.content), str(config[CONFIG_KEY]), self._first)
            if not reply.has_error():
                reply.content = pack(reply.content)
            return reply
        except Refusal as error:
            return Message(Error(code=REFUSED_CODE, reason=str(error)), reply_to=message)
        except Exception as error:
            reason = str(error) if isinstance(error, FedprivError) else type(error).__name__
            self._forget()  # what is in memory may be half of a round
            return Message(Error(code=FAILED_CODE, reason=reason), reply_to=message)

    def _prepare(self, message: Message, config: dict[str, Any]) -> None:
        """Build the node of the run that a message is of, with what it had when it answered last."""
        if not message.has_content():
            raise Refusal("a message without content asks nothing; start the run with `fedpriv deploy run`.")
        content = message.content
        query = message.metadata.message_type.startswith("query")
        try:
            of = RunName.from_content(content) if query else Request.from_content(content).of
            place = content[PLACE]
            first = int(place["first"]) if isinstance(place, ConfigRecord) else -1  # type: ignore[arg-type]
            wanted = str(place.get("kind", "")) if isinstance(place, ConfigRecord) else ""
        except (KeyError, TypeError, ValueError):
            raise Refusal(
                "a message is no question of fedpriv's server; start the run with `fedpriv deploy run`."
            ) from None
        if first < 0 or first > 2**40:
            raise Refusal(f"a message gives this node's first task the id {first}; ids begin at 0.")
        if wanted and wanted != (mine := kind_of_data(self._tasks.roster)):
            raise Refusal(
                f"this node's data are of another kind than the population's ({mine}, and not {wanted}); put the data "
                "back that the node was approved with, or have a new request approved."
            )
        allowed = self._owner.allow.populations
        if allowed is not None and of.population not in allowed:
            raise Refusal(f"this node does not take part in runs of population {of.population!r} (allow.populations).")
        self._refuse_rows(message)
        text = config.get(CONFIG_KEY)
        key = (of, digest_of(str(text)), first)
        if key == self._key:
            return
        self._forget()
        tasks = replace(self._tasks, first=first)
        spec = node_spec(self._owner, self._folder, tasks, text)
        node = Node(replace(spec, noise_seed=int.from_bytes(self._secret, "big")))
        memory, journal = LastingMemory(), RunJournal(self._kept, of)
        node.memory = memory
        if self._old.deleted(journal.path):
            raise Refusal(
                f"this node has deleted its journal of this run: it keeps those of the last {KEPT_RUNS} runs; start a "
                "new run."
            )
        if journal.exists():
            journal.read(node, memory, key[1])
        self._account.give(node.store, tasks.names)
        self._node, self._memory, self._journal, self._key = node, memory, journal, key

    def _refuse_rows(self, message: Message) -> None:
        if self._owner.allow.rows or not message.metadata.message_type.startswith("train"):
            return
        request = Request.from_content(message.content)
        if request.reply == "rows" and request.declared.noise_at != "node":
            raise Refusal(
                "the run asks for one row per task without noise of the node, and this node's owner does not allow "
                "that its server sees single updates (allow.rows)."
            )

    def _ready(self) -> Node:
        if self._node is None:
            raise ComponentFailure("the node was not built.")
        return self._node

    def _keep(self) -> None:
        """Write the account, then the journal; the reply leaves after that."""
        node, journal = self._ready(), self._journal
        if journal is None or self._key is None:
            raise ComponentFailure("the node has no journal.")
        first = not journal.exists()
        self._account.take(node.store, node.tasks.names)
        self._memory.settle()
        journal.write(node, self._memory, self._key[1])
        if first:
            self._old.make_room()

    @property
    def _first(self) -> int:
        return 0 if self._key is None else self._key[2]

    def _forget(self) -> None:
        self._node, self._journal, self._key = None, None, None


def _opened(content: RecordDict) -> RecordDict:
    try:
        return unpack(content)
    except ValueError:
        raise Refusal(
            "a message is no question of fedpriv's server; start the run with `fedpriv deploy run`."
        ) from None
