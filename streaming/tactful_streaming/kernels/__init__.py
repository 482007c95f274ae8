"""Loops over events and state compiled by numba, each with a plain oracle.

It imports no other sub-package of `tactful_streaming`.
Begin with `compile`.
"""
