"""Sequence and join operators: automata, partial matches, actions.

It may import `contract`, `decode`, `definitions`, `flink`, `kafka`, `kernels`, `log`, `online`,
`rules`, `state`, `windows`.
Begin with `sequence_operator`.
"""
