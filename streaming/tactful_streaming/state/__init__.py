"""Key-value state with atomic batches, its key layout and partition checkpoints.

It may import `kernels`.
Begin with `store`.
"""
