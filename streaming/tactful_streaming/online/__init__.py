"""Online feature stores: one packed blob for each entity, embedded or in Redis.

It may import `contract`, `decode`, `definitions`, `kernels`, `log`, `state`, `windows`.
Begin with `store`.
"""
