"""Training of the ranking model and of item vectors from the event log.

It may import every level below its own in `pyproject.toml`. Begin with `train`.
"""
