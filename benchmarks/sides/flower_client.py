"""The rival's ClientApp, as a Flower user writes it: one task per SuperNode and a plain PyTorch loop.

Generous to Flower: an actor keeps the mapped data and the network between messages, and uses one torch thread (two
made it slower). The mini-batches come from the file that all sides read.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import fixedclipping_mod
from torch import Tensor, nn

from benchmarks.data import Data
from benchmarks.work import Work

__all__ = ["CLIENTS"]


@lru_cache(maxsize=1)
def _prepared(directory: str, settings: str) -> tuple[Work, Data, nn.Module]:
    """What an actor process builds once."""
    torch.set_num_threads(1)
    work = Work(**json.loads(settings))
    return work, Data.open(work, Path(directory)), work.network()


def _train(message: Message, context: Context) -> tuple[dict[str, Tensor], dict[str, Tensor], Work]:
    """Return the parameters that came and those after local SGD."""
    config = message.content.config_records["config"]
    work, data, model = _prepared(str(config["directory"]), str(config["work"]))
    task = int(context.node_config["partition-id"])
    start = message.content.array_records["arrays"].to_torch_state_dict()
    model.load_state_dict(start)
    inputs, targets = torch.from_numpy(data.inputs[task]), torch.from_numpy(data.targets[task])
    order = data.batches(int(config["server-round"]))[task]  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(model.parameters(), lr=work.learning_rate)
    for rows in torch.from_numpy(order):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
        optimizer.step()
    return start, model.state_dict(), work


def _reply(message: Message, arrays: ArrayRecord, work: Work) -> Message:
    metrics = MetricRecord({"num-examples": work.examples})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def send_model(message: Message, context: Context) -> Message:
    """Answer with the trained model; Flower's server wrapper or client mod clips it."""
    _, trained, work = _train(message, context)
    return _reply(message, ArrayRecord(trained), work)


def send_clipped(message: Message, context: Context) -> Message:
    """Answer with the clipped drift."""
    start, trained, work = _train(message, context)
    drift = {name: value - start[name] for name, value in trained.items()}
    norm = float(torch.stack([value.double().square().sum() for value in drift.values()]).sum().sqrt())
    factor = min(1.0, work.clipping_norm / norm) if norm else 1.0
    arrays = {name: Array((value * factor).numpy()) for name, value in drift.items()}
    return _reply(message, ArrayRecord(arrays), work)


_plain, _mod, _own = ClientApp(), ClientApp(mods=[fixedclipping_mod]), ClientApp()
_plain.train()(send_model)
_mod.train()(send_model)
_own.train()(send_clipped)

CLIENTS = {"server": _plain, "client": _mod, "own": _own}
"""Who clips: Flower's server-side wrapper, Flower's client-side mod, or the client itself."""
