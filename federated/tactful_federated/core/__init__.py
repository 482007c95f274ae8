"""Federated rounds on the server: plan, noise, averaging, evaluation.

It may import `model`. Begin with `private_training`.
"""
