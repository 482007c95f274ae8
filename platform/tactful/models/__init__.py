"""The model registry, the audit log of promotions, drift, skew and scheduled training.

It may import `catalogue`, `client`, `config`, `event_log`, `experiments`, `kernels`, `metadata`,
`metrics`, `pipeline`, `ranking`, `recall`, `rerank`, `schemas`, `statistics`, `subjects`,
`training`, `util`, `vectors`.
Begin with `mlflow_registry`.
"""
