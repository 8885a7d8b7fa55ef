"""A message of one object says what it said before; what is damaged, or no message, is an error and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from test_deploy_members import asks
from test_deploy_node import CONFIG, ask, host, message, request, same
from test_deploy_status import Nodes

from fedpriv.deploy.certificates import key_pem, make_node_key, read_key
from fedpriv.deploy.configuration import CONFIG_KEY
from fedpriv.deploy.grid import DeployedGrid
from fedpriv.deploy.members import Members
from fedpriv.deploy.packing import pack, unpack
from fedpriv.runtime.flower_private import new_context, set_identity
from fedpriv.runtime.flower_tasks import content_to_bytes
from fedpriv.strategies.exchange import REFUSED_CODE

NAMES = st.text(min_size=1, max_size=8)
ARRAYS = st.lists(st.floats(width=32), max_size=5).map(lambda values: Array(np.array(values, dtype=np.float32)))
RECORDS: Any = st.one_of(
    st.dictionaries(NAMES, ARRAYS, max_size=3).map(ArrayRecord),
    st.dictionaries(NAMES, st.integers(-(2**40), 2**40) | st.floats(), max_size=3).map(MetricRecord),
    st.dictionaries(NAMES, st.booleans() | st.text(max_size=9) | st.binary(max_size=9), max_size=3).map(ConfigRecord),
)


@given(st.dictionaries(NAMES, RECORDS, max_size=4).map(RecordDict))
def test_what_is_packed_comes_back(content: RecordDict) -> None:
    found = unpack(pack(content))
    assert list(found) == list(content)
    assert {name: type(record) for name, record in found.items()} == {name: type(one) for name, one in content.items()}
    assert content_to_bytes(found) == content_to_bytes(content), "to the bit, NaN and signs of zero included"
    assert unpack(content) is content, "who packs nothing is understood"


def test_what_is_large_travels_in_parts_as_it_was() -> None:
    large = RecordDict({"a": ArrayRecord({"x": Array(np.zeros(2**20))})})
    assert pack(large) is large
    small = pack(RecordDict({"a": ArrayRecord({"x": Array(np.zeros(2**10))})}))
    assert list(small) == ["packed"]
    assert pack(small) is small


DAMAGED = [
    ConfigRecord({"content": b"\xff\xff\xff"}),
    ConfigRecord({"content": "text"}),
    ConfigRecord({}),
    MetricRecord({"content": 1}),
    ConfigRecord({"content": content_to_bytes(pack(RecordDict()))}),
]


@pytest.mark.parametrize("record", DAMAGED)
def test_what_is_damaged_is_refused_by_a_node_and_is_an_answer_of_nobody_on_the_server(
    record: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="message"):
        unpack(RecordDict({"packed": record}))
    asked = message("train", RecordDict())
    asked.content = RecordDict({"packed": record})
    assert host(tmp_path).answer(asked, new_context(1), {}).error.code == REFUSED_CODE

    set_identity()
    line = make_node_key(tmp_path / "a.key")
    key = key_pem(read_key(line))
    nodes = Nodes({1: key}, lambda *_: RecordDict({"packed": record}))
    grid = DeployedGrid(nodes, {key: Members().approved(asks("a", line, ("x",)), "lab").nodes[0]})
    grid.get_nodes()
    question = Message(RecordDict({"x": ConfigRecord({"a": 1})}), 1, "train", group_id="4")
    (reply,) = grid.send_and_receive([question], timeout=60.0)
    assert reply.has_error()
    assert reply.metadata.reply_to_message_id == question.metadata.message_id
    assert reply.metadata.src_node_id == 1


def test_a_packed_question_is_answered_as_the_same_one_in_parts(tmp_path: Path) -> None:
    plain = ask(host(tmp_path), request(1))
    (tmp_path / "other").mkdir()
    asked = message("train", request(1))
    asked.content = pack(asked.content)
    reply = host(tmp_path / "other").answer(asked, new_context(1), {CONFIG_KEY: json.dumps(CONFIG)})
    assert list(reply.content) == ["packed"]
    reply.content = unpack(reply.content)
    assert same(plain, reply)
