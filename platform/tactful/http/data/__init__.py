"""Endpoints of data: imports, dead letters and rules, quality, the stream of events.

It may import what `http` may. Begin with `imports`.
"""
