"""Retention, backup, restore, key rotation, backfill and rescaling.

It may import `catalogue`, `cleaning`, `client`, `config`, `coupons`, `demo`, `erasure`,
`event_log`, `experiments`, `feature_workers`, `http`, `kernels`, `metadata`, `metrics`, `models`,
`pipeline`, `ranking`, `recall`, `recommend`, `rerank`, `schemas`, `statistics`, `subjects`,
`training`, `util`, `vectors`.
Begin with `backup`.
"""
