"""The demo: real data sets, replay over HTTP, baselines and the report.

It may import every level below its own in `pyproject.toml`. Begin with `demo`.
"""
