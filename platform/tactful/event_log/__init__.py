"""Readers of the event log: merged partitions, encryption, impressions.

It may import `catalogue`, `client`, `config`, `kernels`, `metadata`, `metrics`, `schemas`,
`util`, `vectors`.
Begin with `merged_log`.
"""
