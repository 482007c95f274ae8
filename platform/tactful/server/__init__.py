"""The assembled server: admission control, gauges and the platform object.

It may import `alerts`, `catalogue`, `cleaning`, `client`, `config`, `coupons`, `demo`, `erasure`,
`event_log`, `experiments`, `feature_workers`, `http`, `kernels`, `maintenance`, `metadata`,
`metrics`, `models`, `pipeline`, `ranking`, `recall`, `recommend`, `rerank`, `schemas`, `sources`,
`statistics`, `subjects`, `training`, `util`, `vectors`.
Begin with `platform`.
"""
