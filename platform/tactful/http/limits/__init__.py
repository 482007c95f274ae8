"""Limits of senders: rates of browser keys and devices, and limits that a key has of its own.

May import what `tactful.http` may. Begin with `key_limits`.
"""
