"""Processes that compute features on a share of the partitions in Kafka.

It may import `catalogue`, `client`, `config`, `event_log`, `experiments`, `kernels`, `metadata`,
`metrics`, `pipeline`, `ranking`, `recall`, `rerank`, `schemas`, `statistics`, `subjects`,
`training`, `util`, `vectors`.
Begin with `run`.
"""
