"""Bandit policies and their state.

Features of another shape, arms that do not exist and values out of range raise PolicyError; the
policy has then learnt nothing. It imports no other sub-package of `tactful_bandits`.
Begin with `linear`.
"""
