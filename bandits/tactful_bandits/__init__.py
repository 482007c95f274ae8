"""Experiment assignment, statistics and decision policies."""

from tactful_bandits.assignment import Arm, Assignment, Experiment, Namespace, Status, assign
from tactful_bandits.comparison import (
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
    "Proportion",
    "Ratio",
    "Sample",
    "SampleRatio",
    "StatisticsError",
    "Status",
    "anytime_p_value",
    "assign",
    "bucket",
    "check_sample_ratio",
    "compare",
    "confidence_sequence",
    "difference",
    "fixed_horizon_interval",
    "fixed_horizon_p_value",
    "level",
    "load_experiments",
]
