"""Device links and profile merges, by logins and logouts alone.

It may import `contract`, `decode`, `definitions`, `flink`, `kafka`, `kernels`, `log`, `online`,
`patterns`, `rules`, `state`, `windows`.
Begin with `resolver`.
"""
