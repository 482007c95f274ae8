"""The device side: history, training, ledger, model packages, intent.

It may import `core`, `model`, `secagg`, `transport`. Begin with `home`.
"""
