"""Runs of a deployment: rounds, buffered training and evaluations.

It may import every other sub-package of `tactful_federated`. Begin with `rounds`.
"""
