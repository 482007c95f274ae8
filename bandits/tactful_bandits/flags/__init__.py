"""Feature flags and experiments as data: definition, payload and evaluation.

It imports `tactful_bandits.assignment`. Begin with `evaluation`.
"""

from tactful_bandits.flags.compiling import compile_features
from tactful_bandits.flags.conversion import Conversion
from tactful_bandits.flags.definitions import FlagSet
from tactful_bandits.flags.evaluation import Evaluation, evaluate, evaluate_all
from tactful_bandits.flags.experiments import Overrides
from tactful_bandits.flags.features import Features
from tactful_bandits.flags.growthbook import read_growthbook
from tactful_bandits.flags.public_form import public_payload, remote_reasons
from tactful_bandits.flags.reading import load_flags
from tactful_bandits.flags.sticky import StickyArms
from tactful_bandits.flags.unleash import read_unleash

__all__ = [
    "Conversion",
    "Evaluation",
    "Features",
    "FlagSet",
    "Overrides",
    "StickyArms",
    "compile_features",
    "evaluate",
    "evaluate_all",
    "load_flags",
    "public_payload",
    "read_growthbook",
    "read_unleash",
    "remote_reasons",
]
