"""Shares, quantiles, rankings and consistent sums of released numbers.

It may import every other sub-package of `tactful_privacy`.
Begin with `conclusions`.
"""
