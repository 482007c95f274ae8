"""Bandit policies and their state.

It imports no other sub-package of `tactful_bandits`.
Begin with `linear`.
"""
