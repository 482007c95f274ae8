"""Coupon campaigns: definitions, decisions under a budget, reports.

It may import `bandits`, `catalogue`, `client`, `config`, `event_log`, `experiments`, `kernels`,
`metadata`, `metrics`, `pipeline`, `ranking`, `recall`, `rerank`, `schemas`, `statistics`,
`subjects`, `training`, `util`, `vectors`.
Begin with `decisions`.
"""
