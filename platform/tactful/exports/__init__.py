"""Recommendations and segments of many users, delivered to a webhook or to Redis.

It may import `catalogue`, `client`, `config`, `event_log`, `experiments`, `kernels`, `metadata`,
`metrics`, `pipeline`, `ranking`, `recall`, `rerank`, `schemas`, `sources`, `statistics`,
`subjects`, `training`, `util`, `vectors`.
Begin with `run`.
"""
