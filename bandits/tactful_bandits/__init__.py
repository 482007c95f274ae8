"""Experiment assignment, statistics and decision policies."""

from tactful_bandits.adjustment import (
    Paired,
    adjusted_difference,
    regression_coefficient,
    stratified_difference,
    winsorised,
)
from tactful_bandits.assignment import Arm, Assignment, Experiment, Namespace, Status, assign
from tactful_bandits.bandit_choice import Choice, Rule, Thompson, UpperConfidence
from tactful_bandits.bandit_memory import Memory, Observation
from tactful_bandits.bayesian import Posterior, Prior, posterior
from tactful_bandits.beta_bandit import BetaBandit
from tactful_bandits.budget_pacing import BudgetPacing
from tactful_bandits.comparison import (
    Alternative,
    Comparison,
    Estimate,
    Interval,
    anytime_p_value,
    compare,
    conclude,
    confidence_sequence,
    difference,
    fixed_horizon_interval,
    fixed_horizon_p_value,
    level,
)
from tactful_bandits.definitions import load_experiments
from tactful_bandits.delayed_rewards import PendingRewards
from tactful_bandits.errors import (
    AssignmentError,
    DefinitionError,
    EvaluationError,
    ExperimentError,
    PolicyError,
    StatisticsError,
)
from tactful_bandits.guardrails import (
    Better,
    Guardrail,
    GuardrailLook,
    GuardrailVerdict,
    check_guardrails,
)
from tactful_bandits.hashing import bucket
from tactful_bandits.linear_bandit import LinearBandit
from tactful_bandits.private_linear_bandit import PrivateLinearBandit
from tactful_bandits.released_samples import RatioSums, ReleasedProportion, ReleasedRatio
from tactful_bandits.sample_ratio import SampleRatio, check_sample_ratio
from tactful_bandits.samples import Mean, Proportion, Ratio, Sample
from tactful_bandits.shared_linear_bandit import SharedLinearBandit
from tactful_bandits.softmax_bandit import SoftmaxBandit

__all__ = [
    "Alternative",
    "Arm",
    "Assignment",
    "AssignmentError",
    "BetaBandit",
    "Better",
    "BudgetPacing",
    "Choice",
    "Comparison",
    "DefinitionError",
    "Estimate",
    "EvaluationError",
    "Experiment",
    "ExperimentError",
    "Guardrail",
    "GuardrailLook",
    "GuardrailVerdict",
    "Interval",
    "LinearBandit",
    "Mean",
    "Memory",
    "Namespace",
    "Observation",
    "Paired",
    "PendingRewards",
    "PolicyError",
    "Posterior",
    "Prior",
    "PrivateLinearBandit",
    "Proportion",
    "Ratio",
    "RatioSums",
    "ReleasedProportion",
    "ReleasedRatio",
    "Rule",
    "Sample",
    "SampleRatio",
    "SharedLinearBandit",
    "SoftmaxBandit",
    "StatisticsError",
    "Status",
    "Thompson",
    "UpperConfidence",
    "adjusted_difference",
    "anytime_p_value",
    "assign",
    "bucket",
    "check_guardrails",
    "check_sample_ratio",
    "compare",
    "conclude",
    "confidence_sequence",
    "difference",
    "fixed_horizon_interval",
    "fixed_horizon_p_value",
    "level",
    "load_experiments",
    "posterior",
    "regression_coefficient",
    "stratified_difference",
    "winsorised",
]
