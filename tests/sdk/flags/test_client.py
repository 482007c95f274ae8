"""Flags of a page and their OpenFeature provider, against a small server, in Node's test runner."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.service("web"), pytest.mark.timeout(120)]


@pytest.mark.slow
@pytest.mark.parametrize("script", ["client", "openfeature"])
def test_of_javascript(flags_folder: Path, script: str) -> None:
    command = ["node", "--test", "--test-reporter=tap", f"{script}.test.mjs"]
    done = subprocess.run(command, cwd=flags_folder, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# fail 0\n" in done.stdout
    assert "# pass 0\n" not in done.stdout
