"""Rollouts of recommendation changes: definitions, storage, control, read-outs.

It may import `catalogue`, `client`, `config`, `event_log`, `kernels`, `metadata`, `metrics`,
`ranking`, `recall`, `rerank`, `schemas`, `statistics`, `subjects`, `util`, `vectors`.
Begin with `controller`.
"""
