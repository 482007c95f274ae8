"""Candidate generation: from a request to at most a thousand items.

It may import `catalogue`, `client`, `config`, `kernels`, `metadata`, `metrics`, `schemas`,
`util`, `vectors`.
Begin with `candidates`.
"""
