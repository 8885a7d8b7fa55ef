"""What a node has done for a question, so that asking it again does nothing twice.

A server that gets no answer asks again. The node may have done all of the work (its answer was late), some of it
(something failed in the middle) or none. What is done stays done: a task that trained twice would answer from another
state, and with local noise two different rows of it would be out where one was charged.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from flwr.app import RecordDict

from fedpriv.protocol import Request
from fedpriv.runtime.local_noise import GroupRequest

__all__ = ["Memory", "Work"]


@dataclass
class Work:
    """What was done for one question.

    Attributes
    ----------
    answer : RecordDict or None
        The whole answer; None as long as something is missing.
    parts : dict
        What comes of each group of tasks, so far.
    done : set
        Cohorts that are through, by group and number.
    problems : Counter
        How many tasks did not count, by cause.
    note : str
        The first of these in words.
    """

    answer: RecordDict | None = None
    parts: dict[str, Any] = field(default_factory=dict)
    done: set[tuple[str, int]] = field(default_factory=set)
    problems: Counter[str] = field(default_factory=Counter)
    note: str = ""


@dataclass(frozen=True)
class _Question:
    kind: str
    request: Request

    @cached_property
    def digest(self) -> str:
        """Name everything that an answer may depend on."""
        asked, said = self.request, self.request.declared
        parts = [GroupRequest(asked, group).digest + ids.tobytes().hex() for group, ids in sorted(asked.tasks.items())]
        return repr((self.kind, asked.epochs, said.fixed_size, said.metrics, said.largest_loss, parts))


class Memory:
    """The last question of one node that changed its state."""

    def __init__(self) -> None:
        self._question: _Question | str | None = None
        self._work = Work()
        self.question: tuple[str, int] | None = None
        """Kind and round of the last question."""

    def asked_before(self, kind: str, request: Request) -> bool:
        """Tell whether the last question was this one."""
        return self._question is not None and _Question(kind, request).digest == _digest(self._question)

    def work(self, kind: str, request: Request) -> Work:
        """Return what was done for a question: nothing, unless it is the last one again and says so."""
        if request.attempt > 1 and self.asked_before(kind, request):
            return self._work
        self._question, self._work = _Question(kind, replace(request, attempt=1)), Work()
        self.question = (kind, request.round)
        return self._work

    def forget(self) -> None:
        """Forget the last question: the state is not the one that it left."""
        self._question, self._work, self.question = None, Work(), None

    def answered(self) -> tuple[str, RecordDict] | None:
        """Return the digest of the last question and its answer, for a node that lives for one message only."""
        if self._question is None or self._work.answer is None:
            return None
        return _digest(self._question), self._work.answer

    def restore(self, digest: str, answer: RecordDict) -> None:
        """Take over what :meth:`answered` gave."""
        self._question, self._work = digest, Work(answer)


def _digest(question: _Question | str) -> str:
    return question if isinstance(question, str) else question.digest
