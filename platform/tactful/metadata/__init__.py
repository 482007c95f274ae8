"""The metadata database (API keys, definitions, decisions, erasures) and connections.

It may import `catalogue`, `client`, `config`, `kernels`, `metrics`, `schemas`, `util`.
Begin with `store`.
"""
