"""The pages of the dashboard.

It may import every other sub-package of `tactful_ui`.
Begin with `overview`.
"""
