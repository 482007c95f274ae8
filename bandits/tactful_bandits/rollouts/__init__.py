"""The life of a rollout: stages, guardrails, decisions.

It may import every other sub-package of `tactful_bandits`.
Begin with `lifecycle`.
"""
