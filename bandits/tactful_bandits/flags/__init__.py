"""Feature flags and experiments as data: definition, payload and evaluation.

It imports `tactful_bandits.assignment`. Begin with `evaluate`.
"""

from tactful_bandits.flags.evaluation import Evaluation, evaluate, evaluate_all
from tactful_bandits.flags.experiments import Overrides
from tactful_bandits.flags.features import Features
from tactful_bandits.flags.sticky import StickyArms

__all__ = ["Evaluation", "Features", "Overrides", "StickyArms", "evaluate", "evaluate_all"]
