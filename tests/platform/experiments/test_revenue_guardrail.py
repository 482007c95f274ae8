"""Revenue as a guardrail, from purchases in the log to the controller's decision."""

from dataclasses import replace

import numpy as np

from benchmarks.experiments.revenue import Case, false_rollbacks, mismatches

NO_INVOICES = np.empty(0)
CANARY = Case(buyers=0.02, sigma=2.0, control=9_500, change=500)
EVEN = Case(buyers=0.3, sigma=2.0, control=600, change=600)


def test_harmless_changes_stay_and_lost_buyers_roll_back() -> None:
    """More than 8 of 60 rollbacks at 5 % come once in three hundred seeds; N came before."""
    assert false_rollbacks(CANARY, 60, NO_INVOICES, seed=3) <= 8
    assert false_rollbacks(EVEN, 4, NO_INVOICES, lift=-0.6) == 4


def test_a_controller_with_a_log_decides_as_simulated() -> None:
    """A harmless and a harmful stage end in the same states as those that the benchmark judges."""
    assert mismatches(replace(EVEN, control=450, change=450), 2, NO_INVOICES) == 0
