"""Messages as bytes: what several shards need travels once, and everything arrives as it was."""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord, Message

from fedpriv.protocol import ALL, Request, record_from_billboards
from fedpriv.runtime.flower_private import set_identity
from fedpriv.runtime.wire import pack, shared_records, unpack


def messages(size: int) -> list[Message]:
    set_identity()
    billboards = {ALL: {"weight": np.arange(size, dtype=np.float64)}}
    records = {ALL: record_from_billboards(billboards)}
    requests = (Request(round=3, billboards={}, tasks={ALL: np.arange(node, node + 5)}) for node in (1, 2))
    return [
        Message(request.to_content(records), node, "train", group_id="3")
        for node, request in enumerate(requests, start=1)
    ]


def test_a_large_billboard_travels_once_and_small_ones_ride_along() -> None:
    sent = messages(100_000)
    shared = shared_records(sent, large=100_000)
    assert [type(record) for record in shared.values()] == [ArrayRecord]
    names = dict.fromkeys(shared, "billboard")
    apart = {"billboard": pack(next(iter(shared.values())))}
    for message in sent:
        payload = pack(message, names)
        assert len(payload) < 10_000 < 800_000 < len(apart["billboard"])
        found = Request.from_content(unpack(payload, apart).content)
        wanted = Request.from_content(message.content)
        assert np.array_equal(found.billboards[ALL]["weight"], wanted.billboards[ALL]["weight"])
        assert np.array_equal(found.tasks[ALL], wanted.tasks[ALL])
    assert not shared_records(messages(100), large=100_000)
    assert not shared_records(sent[:1], large=100_000)


def test_a_message_keeps_its_address_and_its_answer_finds_back() -> None:
    (message, _) = messages(10)
    found = unpack(pack(message))
    assert (found.metadata.dst_node_id, found.metadata.message_type) == (1, "train")
    assert found.metadata.group_id == "3"
