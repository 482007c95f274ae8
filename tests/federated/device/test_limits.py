"""A device that answers stays small: memory, threads, priority, and what it trains on."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful_federated.device.limits import MOST_TOKENS, Limits, latest
from tactful_federated.errors import SettingsError
from tactful_federated.model.tokens import Vocabulary


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="memory is bounded on Unix")
def test_a_bounded_process_is_refused_more_and_lives_on() -> None:
    """In a process of its own, since bounds are for life."""
    code = (
        "import os, numpy as np, torch\n"
        "from threadpoolctl import threadpool_info\n"
        "from tactful_federated import Limits, keep_within\n"
        "keep_within(Limits(memory_mb=900, threads=1, niceness=5))\n"
        "try:\n"
        "    np.ones(2**30, dtype=np.uint8)\n"
        "except MemoryError:\n"
        "    pass\n"
        "else:\n"
        "    raise SystemExit('a gigabyte was given')\n"
        "assert np.ones(2**20).sum() == 2**20\n"
        "assert torch.get_num_threads() == 1 and os.nice(0) >= 5\n"
        "assert {pool['num_threads'] for pool in threadpool_info()} == {1}\n"
        "keep_within(Limits())\n"
        "assert os.nice(0) >= 10\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


@given(
    st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=5), max_size=12),
    st.integers(0, 30),
)
def test_the_latest_visits_that_fit_are_kept(visits: list[list[str]], most: int) -> None:
    vocabulary = Vocabulary.from_catalogue("abc")
    kept = latest(visits, most)
    assert kept == visits[len(visits) - len(kept) :]
    assert len(vocabulary.sequence(kept)) <= most
    if len(kept) < len(visits):
        assert len(vocabulary.sequence(visits[len(visits) - len(kept) - 1 :])) > most


def test_a_long_history_is_cut_and_limits_out_of_range_are_refused() -> None:
    assert len(latest([["a"]] * MOST_TOKENS)) == MOST_TOKENS // 2
    for name, wrong in {"memory_mb": 0, "threads": 0, "niceness": 20}.items():
        with pytest.raises(SettingsError):
            Limits(**{name: wrong})
