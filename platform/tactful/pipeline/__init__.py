"""Ingestion, application of the log, visibility of features, webhooks.

It may import `catalogue`, `client`, `config`, `event_log`, `kernels`, `metadata`, `metrics`,
`ranking`, `recall`, `rerank`, `schemas`, `sources`, `statistics`, `subjects`, `util`, `vectors`.
Begin with `ingest`.
"""
