"""Training of the ranking model and of item vectors from the event log.

It may import `catalogue`, `client`, `config`, `event_log`, `kernels`, `metadata`, `metrics`,
`ranking`, `recall`, `rerank`, `schemas`, `statistics`, `subjects`, `util`, `vectors`.
Begin with `train`.
"""
