"""Secure aggregation: messages, secret sharing, client and server.

It may import `core`, `model`. Begin with `messages`.
"""
