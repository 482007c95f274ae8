"""Alerts: rules over metrics and released statistics, their lifecycle and their messages.

It may import `config`, `metadata`, `metrics`, `recall`, `schemas`, `statistics`, `util`.
Begin with `rules`, then `evaluate`; `service` runs them.
"""
