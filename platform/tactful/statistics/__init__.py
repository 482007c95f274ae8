"""Private statistics: definitions, counting, release through the ledger, export.

It may import `catalogue`, `client`, `config`, `event_log`, `kernels`, `metadata`, `metrics`,
`recall`, `schemas`, `util`, `vectors`.
Begin with `service`, then `counter`.
"""
