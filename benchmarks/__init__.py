"""Speed of fedpriv beside other engines on the same work; `python -m benchmarks.flower_stock` is the entry."""
