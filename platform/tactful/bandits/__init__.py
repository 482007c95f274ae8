"""Bandits that serve: definitions, decisions, learning from the log, evaluation.

An arm is a recommendation policy, or any value that a shop asks for. It imports no other
sub-package of its level. Begin with `definitions`, then `learner`.
"""
