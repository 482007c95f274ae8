"""Cleaning rules: read from YAML, compiled, applied to each event.

It may import `contract`, `decode`, `definitions`, `kernels`, `log`, `state`.
Begin with `rules`.
"""
