"""Python and TypeScript send the same bytes in a secure sum, and refuse the same questions."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.federated.wire_vectors import PUBLISHED

pytestmark = pytest.mark.service("web")


@pytest.mark.slow
def test_all_bytes_are_those_of_python(web_client: Path, tmp_path: Path) -> None:
    shutil.copy(web_client / "device-core.js", tmp_path)
    shutil.copy(Path(__file__).with_name("vectors.mjs"), tmp_path)
    tmp_path.joinpath("package.json").write_text('{"type": "module"}', "utf-8")
    with PUBLISHED.open() as vectors:
        done = subprocess.run(
            ["node", "vectors.mjs"],
            cwd=tmp_path,
            stdin=vectors,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_the_module_of_a_page_stays_small(web_client: Path) -> None:
    assert len(gzip.compress(web_client.joinpath("device.js").read_bytes(), 9)) <= 60_000
