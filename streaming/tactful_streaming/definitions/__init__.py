"""Feature, sequence and join definitions, and the reader of `features.yaml`.

It may import `contract`, `kernels`, `state`.
Begin with `model`.
"""
