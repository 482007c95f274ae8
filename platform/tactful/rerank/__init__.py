"""The order of a recommendation after scoring: objective, diversity, rules, exploration.

It may import `catalogue`, `client`, `config`, `event_log`, `kernels`, `metadata`, `metrics`,
`recall`, `schemas`, `util`, `vectors`.
Begin with `rerank`.
"""
