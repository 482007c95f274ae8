"""Commands that watch an installation: alerts, metrics."""

"""Commands that watch a running server: its alerts.

They may import every other sub-package of `tactful`. Begin with `alerts`.
"""
