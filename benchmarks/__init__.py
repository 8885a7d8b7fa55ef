"""Speed of fedpriv beside other engines and beside hand-written loops, on the same work: `python -m benchmarks`."""
