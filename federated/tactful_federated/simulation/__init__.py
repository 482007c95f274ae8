"""Federated runs in one process or on Ray, for planning and tests.

It may import every other sub-package of `tactful_federated`. Begin with `plain`.
"""
