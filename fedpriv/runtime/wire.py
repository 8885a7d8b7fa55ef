"""Messages as bytes between the server and its shards: each large record travels once, however many shards need it.

Ray would walk over a message object by object; pickled here, it takes half the time.
"""

from __future__ import annotations

import io
import pickle
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord, Message

__all__ = ["pack", "shared_records", "unpack"]


def shared_records(messages: Sequence[Message], large: int) -> dict[int, ArrayRecord]:
    """Return the records of at least so many bytes that several messages hold, by identity."""
    seen: dict[int, ArrayRecord] = {}
    counts: Counter[int] = Counter()
    for message in messages:
        for record in message.content.values() if message.has_content() else ():
            if isinstance(record, ArrayRecord):
                seen[id(record)] = record
                counts[id(record)] += 1
    return {key: seen[key] for key, count in counts.items() if count > 1 and _size(seen[key]) >= large}


def pack(value: Any, shared: Mapping[int, str] | None = None) -> bytes:
    """Return the bytes of a message or a record; records in ``shared`` (identity to name) are left out."""
    if not shared:
        return pickle.dumps(value, protocol=5)
    buffer = io.BytesIO()
    _Pickler(buffer, shared).dump(value)
    return buffer.getvalue()


def unpack(payload: bytes | bytearray, shared: Mapping[str, bytes] | None = None) -> Any:
    """Undo :func:`pack`; ``shared`` holds the bytes of the records that were left out, by name."""
    return _Unpickler(io.BytesIO(payload), shared or {}).load()


def _size(record: ArrayRecord) -> int:
    return sum(len(array.data) for array in record.values())


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, shared: Mapping[int, str]) -> None:
        super().__init__(file, protocol=5)
        self._shared = shared

    def persistent_id(self, obj: Any) -> str | None:
        return self._shared.get(id(obj)) if type(obj) is ArrayRecord else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, shared: Mapping[str, bytes]) -> None:
        super().__init__(file)
        self._shared = shared

    def persistent_load(self, pid: str) -> Any:
        return unpack(self._shared[pid])
