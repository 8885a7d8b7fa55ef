"""Kernels made by hand that compute what the engines of :mod:`fedpriv.cohort` do, in less time."""
