"""Commands that call a server: import, recommendations, lists of items, exports, the dashboard.

They may import every other sub-package of `tactful`. Begin with `recommend`.
"""
