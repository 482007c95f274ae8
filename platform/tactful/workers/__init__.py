"""The pool of serving processes around one process that owns the state.

It may import `catalogue`, `cleaning`, `client`, `config`, `coupons`, `demo`, `erasure`,
`event_log`, `experiments`, `feature_workers`, `http`, `kernels`, `maintenance`, `metadata`,
`metrics`, `models`, `pipeline`, `ranking`, `recall`, `recommend`, `rerank`, `schemas`, `server`,
`sources`, `statistics`, `subjects`, `training`, `util`, `vectors`.
Begin with `pool` and `serving_worker`.
"""
