"""The event log as the product reads it: merged partitions, encryption, impressions.

It may import `catalogue`, `client`, `config`, `kernels`, `metadata`, `metrics`, `schemas`,
`util`, `vectors`.
Begin with `merged_log`.
"""
