"""The steps of the Dockerfile, run on this machine, give an installation that serves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

STEPS = Path(__file__).resolve().parents[2] / "scripts" / "image-steps"


def run(*words: object, timeout: int = 60) -> subprocess.CompletedProcess[str]:
    command = [str(STEPS), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


@pytest.mark.parametrize("words", [(), ("install",), ("remove", "x"), ("check", "a", "b")])
def test_wrong_usage_is_explained(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert "Usage: scripts/image-steps STEP FOLDER" in done.stderr
    assert "compile FOLDER" in done.stderr


def test_an_installation_that_does_not_serve_is_found(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "tactful"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho it does not start >&2\nexit 1\n")
    program.chmod(0o755)
    done = run("check", tmp_path)
    assert done.returncode == 1
    assert "it does not start" in done.stderr


def test_bytecode_is_compiled(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "module.py").write_text("x = 1\n")
    assert run("compile", tmp_path).returncode == 0
    assert [*(tmp_path / "lib" / "__pycache__").glob("module.*.pyc")]


@pytest.mark.slow
def test_an_installation_by_the_steps_serves(tmp_path: Path) -> None:
    """A minute of two idle cores, with packages from pip's cache, where any run leaves them."""
    installed = run("install", tmp_path / "tactful", timeout=550)
    assert installed.returncode == 0, installed.stderr
    checked = run("check", tmp_path / "tactful", timeout=150)
    assert checked.returncode == 0, checked.stderr
    assert "is ready" in checked.stdout
