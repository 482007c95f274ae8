"""The DDPG tuner of objective weights, its simulator and baselines.

It may import every other sub-package of `tactful_bandits`.
Begin with `tuner`.
"""
