import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def published(shared_data: Path) -> Callable[[str], Any]:
    """Reads one of GrowthBook's published JSON files, or skips the test."""

    def read(name: str) -> Any:
        path = _existing(shared_data / "data" / "growthbook" / name)
        return json.loads(path.read_text(encoding="utf-8"))

    return read


@pytest.fixture(scope="session")
def read_parquet(shared_data: Path) -> Callable[[str], Any]:
    """Reads a Parquet file of the shared data into a data frame, or skips the test."""
    pandas = pytest.importorskip("pandas")
    return lambda name: pandas.read_parquet(_existing(shared_data / "data" / name))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small networks are slower on several threads, and far slower beside other tests."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _existing(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"no {path}; set TACTFUL_SHARED to the folder that holds data/")
    return path
