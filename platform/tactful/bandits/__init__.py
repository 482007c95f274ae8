"""Bandits that serve: definitions, decisions, learning from the log, evaluation.

It may import `catalogue`, `client`, `config`, `event_log`, `kernels`, `metadata`, `metrics`,
`ranking`, `recall`, `rerank`, `schemas`, `statistics`, `subjects`, `util`, `vectors`.
Begin with `definitions`.
"""
