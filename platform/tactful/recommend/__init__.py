"""One recommendation from request to response, and its explanation.

It may import `catalogue`, `client`, `config`, `event_log`, `experiments`, `kernels`, `metadata`,
`metrics`, `pipeline`, `ranking`, `recall`, `rerank`, `schemas`, `statistics`, `subjects`,
`training`, `util`, `vectors`.
Begin with `recommender`.
"""
