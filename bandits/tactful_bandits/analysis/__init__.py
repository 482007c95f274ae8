"""Statistics of experiments: comparisons, sequential tests, CUPED, power.

Arguments that are out of range raise StatisticsError. It imports no other sub-package of
`tactful_bandits`.
Begin with `comparison`.
"""
