"""The kernel gathers like numpy, and reports unknown places."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_streaming.kernels.feature_reads import load_gather

PLACES = st.lists(st.integers(0, 9), max_size=12)
ROWS = st.lists(st.integers(-1, 6), max_size=8)
COLUMNS = st.lists(st.integers(0, 2), max_size=3)
NUMBERS = st.lists(st.sampled_from([0.0, 1.5, np.nan]), max_size=12)


@given(PLACES, ROWS, COLUMNS, NUMBERS)
@settings(deadline=None)
def test_gather_equals_numpy(
    places: list[int], rows: list[int], columns: list[int], numbers: list[float]
) -> None:
    kept = np.array(numbers[: len(numbers) // 3 * 3]).reshape(-1, 3)
    found, unknown = np.zeros((len(columns), len(places))), np.zeros(len(places), np.int64)
    count = load_gather()(
        *(np.array(each, np.int64) for each in (places, rows)),
        *(kept, np.array(columns, np.int64), found, unknown),
    )
    row = [rows[place] if place < len(rows) else -1 for place in places]
    wanted = [
        [kept[each, column] if 0 <= each < len(kept) else np.nan for each in row]
        for column in columns
    ]
    expected = np.array(wanted, np.float64).reshape(found.shape)
    assert np.array_equal(found, expected, equal_nan=True)
    assert unknown[:count].tolist() == np.flatnonzero(np.isnan(expected).any(axis=0)).tolist()
