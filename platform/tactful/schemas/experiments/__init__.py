"""Requests and responses about experiments, rollouts, tuners and coupon campaigns.

It may import what `schemas` may. Begin with `readouts`.
"""
