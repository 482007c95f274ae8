"""Experiments: assignment, statistics, rollouts, bandits, off-policy, tuner.

It may import `tactful_privacy`, and neither HTTP nor storage. Begin with `assign` and `compare`.
Importing the package loads the assignment only, which every request needs; other names, which need
SciPy, are loaded at their first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tactful_bandits.assignment.assign import (
    Arm,
    Assignment,
    Experiment,
    assign,
    assign_all,
)
from tactful_bandits.assignment.conditions import matches, require_condition
from tactful_bandits.assignment.definitions import load_experiments
from tactful_bandits.assignment.eligibility import Holdout
from tactful_bandits.assignment.hashing import bucket
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

if TYPE_CHECKING:
    from tactful_bandits.analysis.bayesian import Prior, posterior
    from tactful_bandits.analysis.comparison import (
        Alternative,
        Comparison,
        Estimate,
        Interval,
        anytime_p_value,
        compare,
        confidence_sequence,
        difference,
        fixed_horizon_interval,
        fixed_horizon_p_value,
        level,
    )
    from tactful_bandits.analysis.cuped import (
        Paired,
        adjusted_difference,
        stratified_difference,
        winsorised,
    )
    from tactful_bandits.analysis.diagnostics import effect_trend, error_of_peeking
    from tactful_bandits.analysis.exact_sequences import proportion_sequence
    from tactful_bandits.analysis.group_sequential import group_sequential_bounds
    from tactful_bandits.analysis.heterogeneity import honest_uplift, segment_effects
    from tactful_bandits.analysis.multiplicity import benjamini_hochberg, holm
    from tactful_bandits.analysis.noisy_samples import (
        RatioSums,
        ReleasedProportion,
        ReleasedRatio,
        units_behind_noise,
    )
    from tactful_bandits.analysis.power import Design, days_needed
    from tactful_bandits.analysis.sample_ratio import SampleRatio, check_sample_ratio
    from tactful_bandits.analysis.samples import (
        Mean,
        Proportion,
        Ratio,
        Sample,
    )
    from tactful_bandits.evaluation.off_policy import (
        LoggedDecisions,
        clipped_ips,
        direct_method,
        doubly_robust,
        ips,
        self_normalised_doubly_robust,
        shrunk_doubly_robust,
        snips,
        switch_doubly_robust,
    )
    from tactful_bandits.evaluation.verdict import evaluate_policy
    from tactful_bandits.policies.budget_pacing import BudgetPacing
    from tactful_bandits.policies.choice import Rule, Thompson, UpperConfidence
    from tactful_bandits.policies.delayed_rewards import PendingRewards
    from tactful_bandits.policies.linear import LinearBandit
    from tactful_bandits.policies.memory import Memory, Observation
    from tactful_bandits.policies.private_linear import PrivateLinearBandit
    from tactful_bandits.policies.shared_linear import SharedLinearBandit
    from tactful_bandits.policies.softmax import SoftmaxBandit
    from tactful_bandits.policies.thompson import BetaBandit
    from tactful_bandits.rollouts.guardrails import Guardrail, check_guardrails
    from tactful_bandits.rollouts.lifecycle import (
        decide_rollout,
        judge_rollout,
        poolable_stages,
        resume_rollout,
        roll_back,
        start_canary,
        start_shadow,
    )
    from tactful_bandits.rollouts.model import (
        Rollout,
        RolloutLook,
        RolloutPlan,
        StageObservations,
        dump_rollout,
        load_rollout,
    )
    from tactful_bandits.tuner.network import NetworkPolicy
    from tactful_bandits.tuner.simulator import MarketSimulator
    from tactful_bandits.tuner.weight_bounds import WeightBounds

__all__ = [
    "Alternative",
    "Arm",
    "Assignment",
    "AssignmentError",
    "BetaBandit",
    "BudgetPacing",
    "Comparison",
    "DefinitionError",
    "Design",
    "Estimate",
    "EvaluationError",
    "Experiment",
    "ExperimentError",
    "Guardrail",
    "Holdout",
    "Interval",
    "LifecycleError",
    "LinearBandit",
    "LoggedDecisions",
    "MarketSimulator",
    "Mean",
    "Memory",
    "MissingExtraError",
    "NetworkPolicy",
    "Observation",
    "Paired",
    "PendingRewards",
    "PolicyError",
    "Prior",
    "PrivateLinearBandit",
    "Proportion",
    "Ratio",
    "RatioSums",
    "ReleasedProportion",
    "ReleasedRatio",
    "Rollout",
    "RolloutLook",
    "RolloutPlan",
    "Rule",
    "Sample",
    "SampleRatio",
    "SharedLinearBandit",
    "SoftmaxBandit",
    "StageObservations",
    "StatisticsError",
    "Thompson",
    "UpperConfidence",
    "WeightBounds",
    "adjusted_difference",
    "anytime_p_value",
    "assign",
    "assign_all",
    "benjamini_hochberg",
    "bucket",
    "check_guardrails",
    "check_sample_ratio",
    "clipped_ips",
    "compare",
    "confidence_sequence",
    "days_needed",
    "decide_rollout",
    "difference",
    "direct_method",
    "doubly_robust",
    "dump_rollout",
    "effect_trend",
    "error_of_peeking",
    "evaluate_policy",
    "fixed_horizon_interval",
    "fixed_horizon_p_value",
    "group_sequential_bounds",
    "holm",
    "honest_uplift",
    "ips",
    "judge_rollout",
    "level",
    "load_experiments",
    "load_rollout",
    "matches",
    "poolable_stages",
    "posterior",
    "proportion_sequence",
    "require_condition",
    "resume_rollout",
    "roll_back",
    "segment_effects",
    "self_normalised_doubly_robust",
    "shrunk_doubly_robust",
    "snips",
    "start_canary",
    "start_shadow",
    "stratified_difference",
    "switch_doubly_robust",
    "units_behind_noise",
    "winsorised",
]

_LOADED_WHEN_USED = {
    "Alternative": "analysis.comparison",
    "BetaBandit": "policies.thompson",
    "BudgetPacing": "policies.budget_pacing",
    "Comparison": "analysis.comparison",
    "Design": "analysis.power",
    "Estimate": "analysis.comparison",
    "Guardrail": "rollouts.guardrails",
    "Interval": "analysis.comparison",
    "LinearBandit": "policies.linear",
    "LoggedDecisions": "evaluation.off_policy",
    "MarketSimulator": "tuner.simulator",
    "Mean": "analysis.samples",
    "Memory": "policies.memory",
    "NetworkPolicy": "tuner.network",
    "Observation": "policies.memory",
    "Paired": "analysis.cuped",
    "PendingRewards": "policies.delayed_rewards",
    "Prior": "analysis.bayesian",
    "PrivateLinearBandit": "policies.private_linear",
    "Proportion": "analysis.samples",
    "Ratio": "analysis.samples",
    "RatioSums": "analysis.noisy_samples",
    "ReleasedProportion": "analysis.noisy_samples",
    "ReleasedRatio": "analysis.noisy_samples",
    "Rollout": "rollouts.model",
    "RolloutLook": "rollouts.model",
    "RolloutPlan": "rollouts.model",
    "Rule": "policies.choice",
    "Sample": "analysis.samples",
    "SampleRatio": "analysis.sample_ratio",
    "SharedLinearBandit": "policies.shared_linear",
    "SoftmaxBandit": "policies.softmax",
    "StageObservations": "rollouts.model",
    "Thompson": "policies.choice",
    "UpperConfidence": "policies.choice",
    "WeightBounds": "tuner.weight_bounds",
    "adjusted_difference": "analysis.cuped",
    "anytime_p_value": "analysis.comparison",
    "benjamini_hochberg": "analysis.multiplicity",
    "check_guardrails": "rollouts.guardrails",
    "check_sample_ratio": "analysis.sample_ratio",
    "clipped_ips": "evaluation.off_policy",
    "compare": "analysis.comparison",
    "confidence_sequence": "analysis.comparison",
    "days_needed": "analysis.power",
    "decide_rollout": "rollouts.lifecycle",
    "difference": "analysis.comparison",
    "direct_method": "evaluation.off_policy",
    "doubly_robust": "evaluation.off_policy",
    "dump_rollout": "rollouts.model",
    "effect_trend": "analysis.diagnostics",
    "error_of_peeking": "analysis.diagnostics",
    "evaluate_policy": "evaluation.verdict",
    "fixed_horizon_interval": "analysis.comparison",
    "fixed_horizon_p_value": "analysis.comparison",
    "group_sequential_bounds": "analysis.group_sequential",
    "holm": "analysis.multiplicity",
    "honest_uplift": "analysis.heterogeneity",
    "ips": "evaluation.off_policy",
    "judge_rollout": "rollouts.lifecycle",
    "level": "analysis.comparison",
    "load_rollout": "rollouts.model",
    "poolable_stages": "rollouts.lifecycle",
    "posterior": "analysis.bayesian",
    "proportion_sequence": "analysis.exact_sequences",
    "resume_rollout": "rollouts.lifecycle",
    "roll_back": "rollouts.lifecycle",
    "segment_effects": "analysis.heterogeneity",
    "self_normalised_doubly_robust": "evaluation.off_policy",
    "shrunk_doubly_robust": "evaluation.off_policy",
    "snips": "evaluation.off_policy",
    "start_canary": "rollouts.lifecycle",
    "start_shadow": "rollouts.lifecycle",
    "stratified_difference": "analysis.cuped",
    "switch_doubly_robust": "evaluation.off_policy",
    "units_behind_noise": "analysis.noisy_samples",
    "winsorised": "analysis.cuped",
}


def __getattr__(name: str) -> Any:
    """Load a public name at its first use."""
    if name not in _LOADED_WHEN_USED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LOADED_WHEN_USED[name]}"), name)


def __dir__() -> list[str]:
    return __all__
