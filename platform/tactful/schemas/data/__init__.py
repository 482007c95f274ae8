"""Requests and responses about data: imports, dead letters, quality, the stream of events.

It may import what `schemas` may. Begin with `imports`.
"""
