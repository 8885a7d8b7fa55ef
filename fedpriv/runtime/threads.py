"""One BLAS thread: more wait for each other on cores that are taken, and keep them busy while they wait."""

from __future__ import annotations

from threadpoolctl import threadpool_limits

__all__ = ["one_blas_thread"]


def one_blas_thread() -> threadpool_limits:
    """Limit numpy's and scipy's BLAS to one thread, in this process, until the context that is returned ends.

    Threads of OpenBLAS spin for a while after every call. On the server they did so on the cores of its shards, and
    a round took half as long again. What is computed here (norms, sums of rows) is too small to gain from threads.
    """
    import scipy.linalg.blas  # noqa: F401 (brings a library of its own, which has to be there to be limited)

    return threadpool_limits(1, user_api="blas")
