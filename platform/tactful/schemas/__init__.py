"""Requests and responses of the HTTP API, problem details and log positions.

It may import `kernels`, `metrics`.
Begin with `recommendations`.
"""
