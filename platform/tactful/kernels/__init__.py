"""Numeric loops compiled by numba, each with a plain oracle in the tests.

It imports no other sub-package of `tactful`.
Begin with `forest`.
"""
