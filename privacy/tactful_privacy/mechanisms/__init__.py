"""Noise mechanisms with exact probabilities, thresholds, selection, local reports.

It imports no other sub-package of `tactful_privacy`.
Begin with `laplace`.
"""
