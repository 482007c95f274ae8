"""Readers of the file formats: each yields rows as columns, with the place behind them.

It may import modules of `tactful.imports` but those that use it. Begin with `rows`.
"""
