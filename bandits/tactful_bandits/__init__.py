"""Experiments: assignment, statistics, rollouts, bandits, off-policy, tuner.

It may import `tactful_privacy`, and neither HTTP nor storage. Begin with `assign` and `compare`.
Importing the package loads the assignment only, which every request needs; other names, which need
SciPy, are loaded at their first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tactful_bandits.assignment.assign import Arm, Assignment, Experiment, assign, assign_all
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
from tactful_privacy.lazy_imports import lazy_names

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
        proportion_sequence,
    )
    from tactful_bandits.analysis.cuped import (
        Paired,
        adjusted_difference,
        stratified_difference,
        winsorised,
    )
    from tactful_bandits.analysis.multiplicity import benjamini_hochberg, holm
    from tactful_bandits.analysis.noisy_samples import (
        RatioSums,
        ReleasedProportion,
        ReleasedRatio,
        units_behind_noise,
    )
    from tactful_bandits.analysis.power import Design, days_needed
    from tactful_bandits.analysis.sample_ratio import SampleRatio, check_sample_ratio
    from tactful_bandits.analysis.samples import Mean, Proportion, Ratio, Sample
    from tactful_bandits.analysis.skewed_means import SkewedMean, compare_skewed
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
    from tactful_bandits.policies.thompson import BetaBandit
    from tactful_bandits.rollouts.guardrails import Guardrail, check_guardrails
    from tactful_bandits.rollouts.lifecycle import (
        Rollout,
        RolloutLook,
        StageObservations,
        decide_rollout,
        dump_rollout,
        judge_rollout,
        load_rollout,
        poolable_stages,
        resume_rollout,
        roll_back,
        start_canary,
        start_shadow,
    )
    from tactful_bandits.rollouts.plan import RolloutPlan
    from tactful_bandits.rollouts.power import guardrail_power
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
    "SkewedMean",
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
    "compare_skewed",
    "confidence_sequence",
    "days_needed",
    "decide_rollout",
    "difference",
    "direct_method",
    "doubly_robust",
    "dump_rollout",
    "evaluate_policy",
    "fixed_horizon_interval",
    "fixed_horizon_p_value",
    "guardrail_power",
    "holm",
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

_LAZY = {
    "analysis.bayesian": "Prior posterior",
    "analysis.comparison": (
        "Alternative Comparison Estimate Interval anytime_p_value compare confidence_sequence "
        "difference fixed_horizon_interval fixed_horizon_p_value level proportion_sequence"
    ),
    "analysis.cuped": "Paired adjusted_difference stratified_difference winsorised",
    "analysis.multiplicity": "benjamini_hochberg holm",
    "analysis.noisy_samples": "RatioSums ReleasedProportion ReleasedRatio units_behind_noise",
    "analysis.power": "Design days_needed",
    "analysis.sample_ratio": "SampleRatio check_sample_ratio",
    "analysis.samples": "Mean Proportion Ratio Sample",
    "analysis.skewed_means": "SkewedMean compare_skewed",
    "evaluation.off_policy": (
        "LoggedDecisions clipped_ips direct_method doubly_robust ips self_normalised_doubly_robust "
        "shrunk_doubly_robust snips switch_doubly_robust"
    ),
    "evaluation.verdict": "evaluate_policy",
    "policies.budget_pacing": "BudgetPacing",
    "policies.choice": "Rule Thompson UpperConfidence",
    "policies.delayed_rewards": "PendingRewards",
    "policies.linear": "LinearBandit",
    "policies.memory": "Memory Observation",
    "policies.thompson": "BetaBandit",
    "rollouts.guardrails": "Guardrail check_guardrails",
    "rollouts.lifecycle": (
        "Rollout RolloutLook StageObservations decide_rollout dump_rollout "
        "judge_rollout load_rollout poolable_stages resume_rollout roll_back start_canary "
        "start_shadow"
    ),
    "rollouts.plan": "RolloutPlan",
    "rollouts.power": "guardrail_power",
    "tuner.network": "NetworkPolicy",
    "tuner.simulator": "MarketSimulator",
    "tuner.weight_bounds": "WeightBounds",
}
__getattr__, __dir__ = lazy_names(__name__, __all__, _LAZY)
