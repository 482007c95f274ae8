"""A process that owns Kafka partitions and computes their features.

It may import `contract`, `decode`, `definitions`, `engine`, `flink`, `identity`, `kafka`,
`kernels`, `log`, `online`, `patterns`, `rules`, `state`, `windows`.
Begin with `worker`.
"""
