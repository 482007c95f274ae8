"""The ranking model: its features, its forest, calibration and a heuristic.

It may import `catalogue`, `client`, `config`, `event_log`, `kernels`, `metadata`, `metrics`,
`recall`, `schemas`, `util`, `vectors`.
Begin with `model`.
"""
