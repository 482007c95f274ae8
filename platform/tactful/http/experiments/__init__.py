"""Endpoints of experiments, rollouts, tuners and coupon campaigns.

It may import what `http` may. Begin with `rollouts`.
"""
