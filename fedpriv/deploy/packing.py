"""Messages of few objects: Flower sends each record and each array of a message by a request of its own, signed anew.

So what is not large travels as one value. Both ends are ours; what is large stays as it is.
"""

from __future__ import annotations

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedpriv.runtime.flower_tasks import content_from, content_to_bytes

__all__ = ["pack", "unpack"]

_PACKED, _CONTENT = "packed", "content"
_LARGEST_BYTES = 4 * 2**20
"""What is larger is sent in parts, as Flower does it: the time of a request counts less then, and its limit more."""


def pack(content: RecordDict) -> RecordDict:
    """Return the same content in one record; as it is, if it is large or packed already."""
    arrays = [array for record in content.values() if isinstance(record, ArrayRecord) for array in record.values()]
    size = sum(len(array.data) for array in arrays)
    if size > _LARGEST_BYTES or _PACKED in content:
        return content
    return RecordDict({_PACKED: ConfigRecord({_CONTENT: content_to_bytes(content)})})


def unpack(content: RecordDict) -> RecordDict:
    """Undo :func:`pack`; what is not packed is returned as it is.

    Raises
    ------
    ValueError
        The value is none that :func:`pack` made.
    """
    if _PACKED not in content:
        return content
    record = content[_PACKED]
    value = record.get(_CONTENT) if isinstance(record, ConfigRecord) else None
    if not isinstance(value, bytes):
        raise ValueError("a packed message holds no content")
    found = content_from(value)
    if _PACKED in found:
        raise ValueError("a packed message holds another one")
    return found
