"""Merging two copies of a ledger: nothing spent is lost, and strangers are refused."""

import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tactful_privacy.errors import LedgerError
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.merge import merge_ledger
from tactful_privacy.ledger.query import Query
from tactful_privacy.ledger.statistic import Statistic

DAY = 86_400_000
HOUR = 3_600_000
TODAY = 20_000
VIEWS = Statistic("views", ("bread",), HOUR, 5, Fraction(1, 2))
QUERY = Query("most viewed", TODAY - 2, TODAY - 1, Fraction(1, 4))


def seven() -> NDArray[np.int64]:
    return np.array([7], dtype=np.int64)


def never() -> NDArray[np.int64]:
    raise AssertionError("drawn a second time")


def open_ledger(path: Path) -> Ledger:
    return Ledger(path, daily_epsilon=1, clock=lambda: TODAY * DAY + HOUR)


def test_releases_and_answers_of_the_other_copy_are_added(tmp_path: Path) -> None:
    kept, other = tmp_path / "kept.db", tmp_path / "other.db"
    ledger = open_ledger(kept)
    ledger.register_all([VIEWS], first_day=TODAY)
    ledger.close()
    shutil.copy(kept, other)
    ledger = open_ledger(other)
    ledger.release_once(VIEWS, TODAY * DAY, seven)
    ledger.answer_once(QUERY, seven)
    ledger.close()
    assert merge_ledger(kept, other) > 0
    assert merge_ledger(kept, other) == 0
    ledger = open_ledger(kept)
    assert ledger.release_once(VIEWS, TODAY * DAY, never).noisy_counts.tolist() == [7]
    answer = ledger.answer_once(QUERY, never)
    assert answer.values is not None
    assert answer.values.tolist() == [7]
    ledger.close()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ((Fraction(1, 3), 7), r"at 'views': they are not copies"),
        ((Fraction(1, 2), 8), r"differ in [a-z_]*releases at 'views'"),
    ],
)
def test_another_definition_or_draw_is_refused(
    tmp_path: Path, other: tuple[Fraction, int], said: str
) -> None:
    paths = [tmp_path / "kept.db", tmp_path / "other.db"]
    for path, (epsilon, drawn) in zip(paths, ((Fraction(1, 2), 7), other), strict=True):
        statistic, ledger = replace(VIEWS, epsilon=epsilon), open_ledger(path)
        ledger.register_all([statistic], first_day=TODAY)
        ledger.release_once(statistic, TODAY * DAY, lambda drawn=drawn: np.array([drawn]))  # type: ignore[misc]
        ledger.close()
    with pytest.raises(LedgerError, match=said):
        merge_ledger(*paths)
