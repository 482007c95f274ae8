"""Commands around on-device training: `tactful federated`.

It may import every other sub-package of `tactful`.
Begin with `commands`.
"""
