"""The format of requests and log records: events, items, users, ticks, transfers.

It may import `kernels`.
Begin with `log_entries`.
"""
