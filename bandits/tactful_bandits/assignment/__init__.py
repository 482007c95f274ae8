"""Deterministic assignment of units to arms: hashing, ranges, targeting.

It imports no other sub-package of `tactful_bandits`.
Begin with `assign`.
"""
