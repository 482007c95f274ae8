"""From log records to columns in event-time order.

It may import `contract`, `kernels`, `state`.
Begin with `projection`.
"""
