"""One thread: more wait for each other on cores that are taken, and keep them busy while they wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

__all__ = ["one_blas_thread", "one_thread_for_good", "one_torch_thread"]


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch use one thread and flush denormals to zero, and put both back: they belong to the process.

    Work on tasks and attacks is thousands of small products. A second thread waits for the first in each of them, and
    on a busy machine for its turn on a core as well; denormals cost up to twelve times the time.
    """
    threads = torch.get_num_threads()
    flushed = torch.tensor(1e-310, dtype=torch.float64).mul(1.0).item() == 0.0
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)
        torch.set_num_threads(threads)


def one_blas_thread() -> threadpool_limits:
    """Limit numpy's and scipy's BLAS to one thread, in this process, until the context that is returned ends.

    Threads of OpenBLAS spin for a while after every call. On the server they did so on the cores of its shards, and
    a round took half as long again. What is computed here (norms, sums of rows) is too small to gain from threads.
    """
    import scipy.linalg.blas  # noqa: F401 (brings a library of its own, which has to be there to be limited)

    return threadpool_limits(1, user_api="blas")


def one_thread_for_good() -> None:
    """Let torch and BLAS use one thread each in this process, which is one of several with work for a core."""
    torch.set_num_threads(1)
    one_blas_thread()
