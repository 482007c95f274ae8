"""Trying cleaning rules on a file, and sending dead letters again.

It may import `catalogue`, `client`, `config`, `event_log`, `experiments`, `kernels`, `metadata`,
`metrics`, `pipeline`, `ranking`, `recall`, `rerank`, `schemas`, `statistics`, `subjects`,
`training`, `util`, `vectors`.
Begin with `rule_check`.
"""
