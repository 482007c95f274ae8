"""The metadata database (keys, definitions, decisions, erasures), connections.

It may import `catalogue`, `client`, `config`, `kernels`, `metrics`, `schemas`, `util`.
Begin with `store`.
"""
