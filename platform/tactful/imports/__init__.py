"""Import of files: tables of any shape are read, mapped to the contract and sent.

It may import every level below its own in `pyproject.toml`. Begin with `run`.
"""
