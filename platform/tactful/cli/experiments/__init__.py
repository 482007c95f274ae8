"""Commands of rollouts, metrics and read-outs.

They may import every other sub-package of `tactful`. Begin with `readout`.
"""
