"""Commands that watch an installation: alerts, metrics.

They may import every other sub-package of `tactful`. Begin with `alerts`.
"""
