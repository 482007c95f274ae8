"""Experiment assignment, statistics and decision policies."""

from tactful_bandits.adjustment import (
    Paired,
    adjusted_difference,
    regression_coefficient,
    stratified_difference,
    winsorised,
)
from tactful_bandits.assignment import Arm, Assignment, Experiment, Namespace, Status, assign
from tactful_bandits.bayesian import Posterior, Prior, posterior
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
from tactful_bandits.errors import (
    AssignmentError,
    DefinitionError,
    ExperimentError,
    StatisticsError,
)
from tactful_bandits.hashing import bucket
from tactful_bandits.sample_ratio import SampleRatio, check_sample_ratio
from tactful_bandits.samples import Mean, Proportion, Ratio, Sample

__all__ = [
    "Alternative",
    "Arm",
    "Assignment",
    "AssignmentError",
    "Comparison",
    "DefinitionError",
    "Estimate",
    "Experiment",
    "ExperimentError",
    "Interval",
    "Mean",
    "Namespace",
    "Paired",
    "Posterior",
    "Prior",
    "Proportion",
    "Ratio",
    "Sample",
    "SampleRatio",
    "StatisticsError",
    "Status",
    "adjusted_difference",
    "anytime_p_value",
    "assign",
    "bucket",
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
