"""The metadata database (keys, definitions, decisions, erasures), connections.

It may import every level below its own in `pyproject.toml`. Begin with `store`.
"""
