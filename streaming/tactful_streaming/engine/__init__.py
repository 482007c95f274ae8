"""The embedded event-time engine: admission, apply, commit, erasure, backfill.

It may import `contract`, `decode`, `definitions`, `flink`, `identity`, `kafka`, `kernels`, `log`,
`online`, `patterns`, `rules`, `state`, `windows`.
Begin with `engine`.
"""
