"""The durable event log in files: segments, group commit, redaction, dead letters.

It may import `contract`, `kernels`, `state`.
Begin with `embedded_log`.
"""
