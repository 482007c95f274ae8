"""Retention, backup, restore, key rotation, backfill and rescaling.

It may import every level below its own in `pyproject.toml`. Begin with `backup`.
"""
