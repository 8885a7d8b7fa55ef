"""The Flower ClientApp around a node: the same app in our grids, in Flower's engine and on real machines."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedpriv.errors import ComponentFailure, FedprivError, OwnCodeError
from fedpriv.runtime.node import Node

__all__ = ["client_app"]

Handler = Callable[[Message, Context], Message]


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

    def answer(
        register: Callable[[Handler], Handler],
        work: Callable[[Node, RecordDict], RecordDict],
        *,
        changes: bool = False,
    ) -> None:
        @register
        def handle(message: Message, context: Context) -> Message:
            node: Node | None = None
            try:
                node = node_for(context)
                content = work(node, message.content)
            except FedprivError as error:
                if not isinstance(error, OwnCodeError):
                    raise
                raise ComponentFailure("code of the node's owner failed while the node was built") from None
            except Exception as error:
                # Its text may hold values, and Flower sends it to the server. Who is not built declares nothing.
                if node is not None and node.spec.tasks.declared != "protected":
                    raise
                where = "" if node is not None else ", while the node was built"
                raise ComponentFailure(type(error).__name__ + where) from None
            if changes and after:
                after(node, context)
            return Message(content, reply_to=message)

    answer(app.query("tasks"), lambda node, content: node.describe(content))
    answer(app.train(), lambda node, content: node.train(content), changes=True)
    answer(app.train("finish"), lambda node, content: node.finish(content), changes=True)
    answer(app.train("metrics"), lambda node, content: node.measure(content), changes=True)
    answer(app.evaluate(), lambda node, content: node.evaluate(content))
    answer(app.evaluate("local_only"), lambda node, content: node.local_only(content))
    return app
