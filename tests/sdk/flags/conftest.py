"""Modules of the browser client for flags in Node, beside the scripts of these tests."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).parent

Node = Callable[..., Any]
"""Runs a script with a value as its input; returns the value that it prints."""


@pytest.fixture(scope="session")
def flags_folder(web_client: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundles, the scripts, and the packages that the client is built with."""
    folder = tmp_path_factory.mktemp("flags")
    for file in [*web_client.glob("*.js"), *HERE.glob("*.mjs")]:
        shutil.copy(file, folder)
    folder.joinpath("package.json").write_text('{"type": "module"}', "utf-8")
    folder.joinpath("node_modules").symlink_to(ROOT / "sdk" / "web" / "node_modules")
    return folder


@pytest.fixture(scope="session")
def node(flags_folder: Path) -> Node:
    def run(script: str, given: Any) -> Any:
        done = subprocess.run(
            ["node", script],
            cwd=flags_folder,
            input=json.dumps(given),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run
