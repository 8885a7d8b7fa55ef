"""The Flower ClientApp around a node: the same app in our grids, in Flower's engine and on real machines."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedpriv.runtime.node import Node

__all__ = ["client_app"]


def client_app(node_for: Callable[[Context], Node], after: Callable[[Node, Context], None] | None = None) -> ClientApp:
    """Build the ClientApp that hands messages to a node.

    Parameters
    ----------
    node_for : callable
        Finds or builds the node for Flower's context.
    after : callable or None
        Called when a message may have changed the node's state, to keep it where the engine wants it.
    """
    app = ClientApp()

    @app.query("tasks")
    def tasks(message: Message, context: Context) -> Message:
        return Message(node_for(context).describe(), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        node = node_for(context)
        content = node.train(message.content)
        if after:
            after(node, context)
        return Message(content, reply_to=message)

    @app.train("finish")
    def finish(message: Message, context: Context) -> Message:
        node = node_for(context)
        content = node.finish(message.content)
        if after:
            after(node, context)
        return Message(content, reply_to=message)

    @app.train("metrics")
    def metrics(message: Message, context: Context) -> Message:
        node = node_for(context)
        content = node.measure(message.content)
        if after:
            after(node, context)
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(node_for(context).evaluate(message.content), reply_to=message)

    @app.evaluate("local_only")
    def local_only(message: Message, context: Context) -> Message:
        return Message(node_for(context).local_only(message.content), reply_to=message)

    return app
