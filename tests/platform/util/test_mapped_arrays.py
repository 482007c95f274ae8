"""Arrays in files: the numbers stay when the pages are released, and the memory goes."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tactful.util import mapped_arrays
from tactful.util.mapped_arrays import mapped, portions, release, save_arrays

_RESIDENT = """
import os, sys
from pathlib import Path
import numpy as np
from tactful.util.mapped_arrays import mapped, release

def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20

array = mapped((1 << 20, 32), Path(sys.argv[1]))
before = resident()
array[:] = 1.0
full = resident()
release(array[5:])
print(full - before, resident() - before, int(array.sum(dtype=np.float64)))
"""


def test_numbers_stay_when_pages_are_released(tmp_path: Path) -> None:
    array = mapped((1_000, 7), tmp_path)
    assert not array.any()
    wanted = np.arange(7_000, dtype=np.float32).reshape(1_000, 7)
    array[:] = wanted
    release(array[10:20, 3])
    assert np.array_equal(array, wanted)
    assert not [*tmp_path.iterdir()], "the file has no name"


def test_released_pages_leave_resident_memory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _RESIDENT, str(tmp_path)], capture_output=True, text=True, check=True
    )
    full, after, total = map(int, done.stdout.split())
    assert full >= 120
    assert after <= 16
    assert total == 32 << 20


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_an_empty_array_needs_no_file(tmp_path: Path, shape: tuple[int, int]) -> None:
    assert mapped(shape, tmp_path).shape == shape


def test_a_full_disk_is_an_error_and_no_signal(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"space|large"):
        mapped((1 << 40, 1 << 10), tmp_path)


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 50])
def test_portions_are_all_rows_once(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_arrays, "_PORTION_BYTES", 24)
    array = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    parts = [*portions(array)]
    assert all(len(part) == 2 for part in parts[:-1])
    assert sum(map(len, parts)) == rows
    assert np.array_equal(np.concatenate([array[:0], *parts]), array)


def test_saved_arrays_are_those_of_numpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_arrays, "_PORTION_BYTES", 24)
    array = mapped((9, 3), tmp_path)
    array[:] = np.arange(27).reshape(9, 3)
    arrays = {
        "rows": array,
        "sliced": array[2:, :2],
        "columns": np.asfortranarray(array),
        "flags": np.array([True, False]),
        "sizes": np.arange(5, dtype=np.int64),
        "none": np.zeros((0, 3), np.float32),
    }
    file = io.BytesIO()
    save_arrays(file, arrays)
    file.seek(0)
    with np.load(file, allow_pickle=False) as found:
        assert set(found.files) == set(arrays)
        for name, wanted in arrays.items():
            assert found[name].dtype == wanted.dtype
            assert np.array_equal(found[name], wanted), name
