import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def published() -> Callable[[str], Any]:
    """Reads one of GrowthBook's published JSON files, or skips the test."""
    shared = Path(os.environ.get("TACTFUL_SHARED", ROOT.parent / "shared"))

    def read(name: str) -> Any:
        path = shared / "data" / "growthbook" / name
        if not path.exists():
            pytest.skip(f"no {path}; set TACTFUL_SHARED to the folder that holds data/growthbook")
        return json.loads(path.read_text(encoding="utf-8"))

    return read
