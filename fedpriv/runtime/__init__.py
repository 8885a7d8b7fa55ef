"""What carries messages: nodes, grids, the server's loop. The only place that touches Flower's engine and Ray."""

__all__: list[str] = []
