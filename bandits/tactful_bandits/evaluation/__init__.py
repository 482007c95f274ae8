"""Off-policy evaluation of policies from logged decisions.

It may import every other sub-package of `tactful_bandits`.
Begin with `off_policy`.
"""
