"""Flags on the server: versions, kill switches, payloads, tokens of units, exposures.

It may import `catalogue`, `client`, `config`, `event_log`, `metadata`, `metrics`, `schemas`,
`subjects`, `util`.
Begin with `service`.
"""
