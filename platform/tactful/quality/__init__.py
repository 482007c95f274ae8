"""Quality of data: profiles of fields, findings, and a page that shows them.

It may import every level below its own in `pyproject.toml`. Begin with `profile`.
"""
