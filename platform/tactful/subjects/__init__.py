"""Rights of users: consent, suppression, export, search, erasure requests.

It may import `catalogue`, `client`, `config`, `event_log`, `kernels`, `metadata`, `metrics`,
`recall`, `schemas`, `util`, `vectors`.
Begin with `permissions`.
"""
