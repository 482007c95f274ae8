"""Counters and histograms for Prometheus, of one process or of several.

It imports no other sub-package of `tactful`.
Begin with `registry`.
"""
