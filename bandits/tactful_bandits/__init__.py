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
from tactful_bandits.off_policy import (
    LoggedDecisions,
    OffPolicyEstimate,
    bootstrap_interval,
    clipped_ips,
    direct_method,
    doubly_robust,
    ips,
    logged_value,
    self_normalised_doubly_robust,
    shrunk_doubly_robust,
    snips,
    switch_doubly_robust,
)
from tactful_bandits.off_policy_verdict import (
    Overlap,
    PolicyEvaluation,
    Sensitivity,
    evaluate_policy,
    measure_overlap,
)
from tactful_bandits.private_linear_bandit import PrivateLinearBandit
from tactful_bandits.released_samples import RatioSums, ReleasedProportion, ReleasedRatio
from tactful_bandits.sample_ratio import SampleRatio, check_sample_ratio
from tactful_bandits.samples import Mean, Proportion, Ratio, Sample
from tactful_bandits.shared_linear_bandit import SharedLinearBandit
from tactful_bandits.slate_evaluation import (
    cascade_doubly_robust,
    cascade_ips,
    independent_ips,
    pseudo_inverse,
    pseudo_inverse_weights,
    slate_ips,
)
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
    "LoggedDecisions",
    "Mean",
    "Memory",
    "Namespace",
    "Observation",
    "OffPolicyEstimate",
    "Overlap",
    "Paired",
    "PendingRewards",
    "PolicyError",
    "PolicyEvaluation",
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
    "Sensitivity",
    "SharedLinearBandit",
    "SoftmaxBandit",
    "StatisticsError",
    "Status",
    "Thompson",
    "UpperConfidence",
    "adjusted_difference",
    "anytime_p_value",
    "assign",
    "bootstrap_interval",
    "bucket",
    "cascade_doubly_robust",
    "cascade_ips",
    "check_guardrails",
    "check_sample_ratio",
    "clipped_ips",
    "compare",
    "conclude",
    "confidence_sequence",
    "difference",
    "direct_method",
    "doubly_robust",
    "evaluate_policy",
    "fixed_horizon_interval",
    "fixed_horizon_p_value",
    "independent_ips",
    "ips",
    "level",
    "load_experiments",
    "logged_value",
    "measure_overlap",
    "posterior",
    "pseudo_inverse",
    "pseudo_inverse_weights",
    "regression_coefficient",
    "self_normalised_doubly_robust",
    "shrunk_doubly_robust",
    "slate_ips",
    "snips",
    "stratified_difference",
    "switch_doubly_robust",
    "winsorised",
]
