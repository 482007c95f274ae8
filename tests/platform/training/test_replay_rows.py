"""Rows of a training are in memory once."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import resource
import numpy as np
from tactful.ranking.features import RANKING_FEATURES
from tactful.training.replay_rows import _Parts
from tactful.util.process_tuning import return_large_pieces

return_large_pieces()
parts = _Parts(None)
for number in range(12_800):
    parts.add(np.full((50, len(RANKING_FEATURES)), number, np.float32), np.zeros(50, bool))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
learn, judge = parts.close(10_001)
for rows, numbers in (learn, range(10_001)), (judge, range(10_001, 12_800)):
    assert rows.features[::50, 0].tolist() == [*numbers] and len(rows.sizes) == len(numbers)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(grown * 1024 / (learn.features.nbytes + judge.features.nbytes))
"""


@pytest.mark.slow
def test_rows_are_in_memory_once() -> None:
    """Their parts are freed while they are put together: both took 200 MB of 250,000 events."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, check=True)
    assert float(done.stdout) < 0.3
