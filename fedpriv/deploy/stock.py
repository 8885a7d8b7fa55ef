"""What the bundle of a deployment names, because Flower asks for two apps; nobody loads them.

The run is served by ``fedpriv deploy run`` itself, and nodes answer by their own worker. Whoever starts these apps in
Flower's own way is told so.
"""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedpriv.errors import ComponentFailure

__all__ = ["client", "server"]

server = ServerApp()
client = ClientApp()
_INSTEAD = "this app is never loaded: serve runs with `fedpriv deploy run`, and nodes with `fedpriv deploy node`."


@server.main()
def _serve(grid: Grid, context: Context) -> None:  # noqa: ARG001
    raise ComponentFailure(_INSTEAD)


@client.train()
def _train(message: Message, context: Context) -> Message:  # noqa: ARG001
    raise ComponentFailure(_INSTEAD)
