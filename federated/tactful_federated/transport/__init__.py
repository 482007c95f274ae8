"""Flower as transport: SuperLink, grids, certificates, device client.

It may import `core`, `model`, `secagg`. Begin with `flower_secure`.
"""
