"""Windowed aggregates by entity: panes, sessions, sketches, triggers.

It may import `contract`, `decode`, `definitions`, `kernels`, `log`, `state`.
Begin with `entity_table`.
"""
