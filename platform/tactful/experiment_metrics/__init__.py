"""Metrics of experiments as data: definitions, outcomes of units, read-outs.

It may import `client`, `config`, `event_log`, `experiments`, `metadata`, `schemas`, `subjects`,
`util`. Begin with `definitions`.
"""
