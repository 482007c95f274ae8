"""Experiment assignment, statistics and decision policies."""

from tactful_bandits.adjustment import (
    Paired,
    adjusted_difference,
    regression_coefficient,
    stratified_difference,
    winsorised,
)
from tactful_bandits.assignment import Arm, Assignment, Experiment, Status, assign, assign_all
from tactful_bandits.bandit_choice import Choice, Rule, Thompson, UpperConfidence
from tactful_bandits.bandit_memory import Memory, Observation
from tactful_bandits.bayesian import Posterior, Prior, posterior
from tactful_bandits.beta_bandit import BetaBandit
from tactful_bandits.budget_pacing import BudgetPacing
from tactful_bandits.cautions import Course, Trend, effect_trend, error_of_peeking
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
from tactful_bandits.conditions import Condition, Groups, matches, require_condition
from tactful_bandits.definitions import load_experiments
from tactful_bandits.delayed_rewards import PendingRewards
from tactful_bandits.eligibility import Holdout, Namespace, Prerequisite
from tactful_bandits.errors import (
    AssignmentError,
    DefinitionError,
    EvaluationError,
    ExperimentError,
    LifecycleError,
    MissingExtraError,
    PolicyError,
    StatisticsError,
)
from tactful_bandits.exact_sequences import exact_difference_sequence, proportion_sequence
from tactful_bandits.group_sequential import (
    Spending,
    crossing_probability,
    group_sequential_bounds,
    obrien_fleming_spending,
    pocock_spending,
    repeated_interval,
)
from tactful_bandits.guardrails import (
    Better,
    Guardrail,
    GuardrailLook,
    GuardrailVerdict,
    check_guardrails,
)
from tactful_bandits.hashing import bucket
from tactful_bandits.heterogeneity import (
    Heterogeneity,
    SegmentEffect,
    Uplift,
    honest_uplift,
    segment_effects,
)
from tactful_bandits.lifecycle import (
    decide_rollout,
    judge_rollout,
    poolable_stages,
    resume_rollout,
    roll_back,
    start_canary,
    start_shadow,
)
from tactful_bandits.linear_bandit import LinearBandit
from tactful_bandits.market_simulator import MarketSettings, MarketSimulator, MarketStep
from tactful_bandits.multiplicity import benjamini_hochberg, holm
from tactful_bandits.network_policy import NetworkPolicy
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
from tactful_bandits.power import Design, days_needed
from tactful_bandits.private_linear_bandit import PrivateLinearBandit
from tactful_bandits.quantiles import Quantile
from tactful_bandits.released_samples import RatioSums, ReleasedProportion, ReleasedRatio
from tactful_bandits.replay import Batch, Replay
from tactful_bandits.retention import retention, retention_curve
from tactful_bandits.rollouts import (
    Decision,
    Rollout,
    RolloutLook,
    RolloutPlan,
    RolloutState,
    StageObservations,
    Transition,
    dump_rollout,
    load_rollout,
)
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
from tactful_bandits.weight_bounds import WeightBounds

__all__ = [
    "Alternative",
    "Arm",
    "Assignment",
    "AssignmentError",
    "Batch",
    "BetaBandit",
    "Better",
    "BudgetPacing",
    "Choice",
    "Comparison",
    "Condition",
    "Course",
    "Decision",
    "DefinitionError",
    "Design",
    "Estimate",
    "EvaluationError",
    "Experiment",
    "ExperimentError",
    "Groups",
    "Guardrail",
    "GuardrailLook",
    "GuardrailVerdict",
    "Heterogeneity",
    "Holdout",
    "Interval",
    "LifecycleError",
    "LinearBandit",
    "LoggedDecisions",
    "MarketSettings",
    "MarketSimulator",
    "MarketStep",
    "Mean",
    "Memory",
    "MissingExtraError",
    "Namespace",
    "NetworkPolicy",
    "Observation",
    "OffPolicyEstimate",
    "Overlap",
    "Paired",
    "PendingRewards",
    "PolicyError",
    "PolicyEvaluation",
    "Posterior",
    "Prerequisite",
    "Prior",
    "PrivateLinearBandit",
    "Proportion",
    "Quantile",
    "Ratio",
    "RatioSums",
    "ReleasedProportion",
    "ReleasedRatio",
    "Replay",
    "Rollout",
    "RolloutLook",
    "RolloutPlan",
    "RolloutState",
    "Rule",
    "Sample",
    "SampleRatio",
    "SegmentEffect",
    "Sensitivity",
    "SharedLinearBandit",
    "SoftmaxBandit",
    "Spending",
    "StageObservations",
    "StatisticsError",
    "Status",
    "Thompson",
    "Transition",
    "Trend",
    "Uplift",
    "UpperConfidence",
    "WeightBounds",
    "adjusted_difference",
    "anytime_p_value",
    "assign",
    "assign_all",
    "benjamini_hochberg",
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
    "crossing_probability",
    "days_needed",
    "decide_rollout",
    "difference",
    "direct_method",
    "doubly_robust",
    "dump_rollout",
    "effect_trend",
    "error_of_peeking",
    "evaluate_policy",
    "exact_difference_sequence",
    "fixed_horizon_interval",
    "fixed_horizon_p_value",
    "group_sequential_bounds",
    "holm",
    "honest_uplift",
    "independent_ips",
    "ips",
    "judge_rollout",
    "level",
    "load_experiments",
    "load_rollout",
    "logged_value",
    "matches",
    "measure_overlap",
    "obrien_fleming_spending",
    "pocock_spending",
    "poolable_stages",
    "posterior",
    "proportion_sequence",
    "pseudo_inverse",
    "pseudo_inverse_weights",
    "regression_coefficient",
    "repeated_interval",
    "require_condition",
    "resume_rollout",
    "retention",
    "retention_curve",
    "roll_back",
    "segment_effects",
    "self_normalised_doubly_robust",
    "shrunk_doubly_robust",
    "slate_ips",
    "snips",
    "start_canary",
    "start_shadow",
    "stratified_difference",
    "switch_doubly_robust",
    "winsorised",
]
