"""Several shops in one process: each is a whole platform of its own, behind one port.

It may import `config`, `http`, `metadata`, `pipeline`, `schemas`, `server`, `workers`.
Begin with `application` and `run`.
"""
