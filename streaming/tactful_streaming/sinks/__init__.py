"""Consumers of window results and actions: Redis, SQL, webhooks.

It may import every other sub-package of `tactful_streaming`.
Begin with `sink`.
"""
