"""Statistics of experiments: comparisons, sequential tests, CUPED, power.

It imports no other sub-package of `tactful_bandits`.
Begin with `comparison`.
"""
