"""The settings that all tests share: missing services, and the examples of Hypothesis."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

SERVICES = """
import pytest

def test_redis(redis_url): ...
@pytest.mark.service("redis")
def test_redis_too(): ...
def test_flink(flink_home): ...
def test_apache(apache_servers): ...
def test_cluster(apache_cluster):
    with apache_cluster(): ...
def test_data(shared_data): ...
def test_alone(): ...
"""

EXAMPLES = """
import pathlib
from hypothesis import given, settings, strategies

@settings(max_examples=20)
@given(strategies.integers())
def test_integers(n):
    with pathlib.Path("examples").open("a") as file:
        print(n, file=file)
"""

SLOW = """
import time
from hypothesis import given, strategies

@given(strategies.integers())
def test_slow(n):
    time.sleep(0.1)

@given(strategies.integers())
def test_wrong(n):
    time.sleep(0.1)
    assert n < 1000
"""


def run(folder: Path, text: str, *options: str, **environment: str) -> tuple[int, str]:
    """Run tests beside a copy of conftest.py; return the exit code and the output."""
    shutil.copy(ROOT / "tests" / "conftest.py", folder)
    (folder / "test_it.py").write_text(text)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TACTFUL_")}
    kept.pop("CI", None)
    kept.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull]
    command += ["--rootdir", str(folder), *options, "test_it.py"]
    env = {**kept, "PYTHONPATH": str(ROOT), "TACTFUL_SHARED": str(folder), **environment}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_services_and_examples(tmp_path: Path) -> None:
    """One line says which services were missing; in CI that fails, but for data and Apache Kafka.

    The default run has the same examples each time, a random one those of its seed.
    """

    def outcomes(code: int, *options: str, **environment: str) -> tuple[dict[str, int], list[str]]:
        written = tmp_path / "examples"
        written.unlink(missing_ok=True)
        returned, output = run(tmp_path, SERVICES + EXAMPLES, *options, **environment)
        assert returned == code, output
        assert output.count("services missing:") == 1
        missing = "services missing: apache (2 tests), flink (1 tests), redis (2 tests); see"
        assert missing in output
        found = re.findall(r"(\d+) (passed|skipped|failed|error)", output.splitlines()[-1])
        return {outcome: int(count) for count, outcome in found}, written.read_text().split()

    counts, default = outcomes(0)
    assert counts == {"passed": 2, "skipped": 6}
    counts, examples = outcomes(1, "-n", "2", CI="true")
    assert counts == {"passed": 2, "skipped": 3, "error": 3}
    assert examples == default
    _, first = outcomes(0, "--hypothesis-seed=1", TACTFUL_TEST_SEED="1")
    _, second = outcomes(0, "--hypothesis-seed=2", TACTFUL_TEST_SEED="2")
    assert second != first
    _, few = outcomes(0, TACTFUL_TEST_EXAMPLES="0.3")
    _, fewest = outcomes(0, TACTFUL_TEST_EXAMPLES="0.01")
    _, many = outcomes(0, "--hypothesis-seed=1", TACTFUL_TEST_SEED="1", TACTFUL_TEST_EXAMPLES="3")
    assert [len(each) for each in (default, first, few, fewest, many)] == [20, 20, 6, 3, 60]


@pytest.mark.slow
def test_examples_that_take_long(tmp_path: Path) -> None:
    """In a random run a test tries no further examples after its time, and fails as ever."""
    code, output = run(tmp_path, SLOW, "--hypothesis-seed=3", TACTFUL_TEST_SEED="3")
    assert code == 1
    assert "1 failed, 1 passed" in output
    assert "assert 1000 < 1000" in output
    assert "Flaky" not in output
