"""Erasure of users from every store, offline and while a server runs.

It may import `catalogue`, `cleaning`, `client`, `config`, `coupons`, `demo`, `event_log`,
`experiments`, `feature_workers`, `http`, `kernels`, `metadata`, `metrics`, `models`, `pipeline`,
`ranking`, `recall`, `recommend`, `rerank`, `schemas`, `statistics`, `subjects`, `training`,
`util`, `vectors`.
Begin with `erase`.
"""
