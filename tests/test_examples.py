"""Every example runs as it is, and does what it says."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def server(data: Path) -> Iterator[str]:
    """The address of ``tactful serve --dev``."""
    command = [sys.executable, "-m", "tactful", "serve", "--dev", "--port", "0", "--json"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TACTFUL_")}
    process = subprocess.Popen(
        [*command, "--data", str(data)], cwd=data.parent, env=environment, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)


@pytest.mark.slow
def test_whoever_left_the_cart_gets_the_coupon() -> None:
    parts = run("abandoned_cart.py").split("12:13\n")
    before, after = ({it.split(":")[0].strip(): it for it in part.splitlines()} for part in parts)
    for values in (before["ada"], before["bob"], after["ada"]):
        assert "'coupons_30d': 0.0, 'offers_30d': 0.0, 'abandoned_cart': 0.0" in values
    coupon = "'coupons_30d': 1.0, 'offers_30d': 0.0, 'abandoned_cart': 1767268920000.0"
    assert coupon in after["bob"]
    assert "'interest': {'kitchen': 0.8}" in before["bob"]


@pytest.mark.slow
def test_a_shop_gets_its_first_list(tmp_path: Path) -> None:
    with server(tmp_path / "data") as url:
        said = run("recommend.py", url).splitlines()
    assert said[0] == "9 events accepted, 0 rejected"
    assert len([line for line in said if "found by:" in line]) == 3


@pytest.mark.slow
def test_the_notebook_runs_from_its_first_cell_to_its_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text("utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells), "a notebook is stored without outputs"
    names: dict[str, Any] = {}
    with server(tmp_path / "data") as url:
        monkeypatch.setenv("TACTFUL_URL", url)
        monkeypatch.delenv("TACTFUL_API_KEY", raising=False)
        for number, cell in enumerate(cells):
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert (names["sent"].accepted, names["accepted"].accepted) == (6, 5)
    assert sorted(names["catalogue"]["item_id"]) == sorted(names["goods"]["item_id"])
    assert names["found"].facets.total == 4, "also teapots"
    assert len(names["proposed"]) == 4 and "channel" in names["channels"].columns
    assert len(names["history"]) == 1
    assert len(names["stored"].records) >= 2
    assert names["receipt"].state == "requested"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.*")), ids=lambda path: path.name)
def test_every_example_is_listed_and_tested(path: Path) -> None:
    if path.name == "README.md":
        return
    assert f"`examples/{path.name}`" in (EXAMPLES / "README.md").read_text(encoding="utf-8")
    if path.suffix == ".py":
        assert f'run("{path.name}"' in Path(__file__).read_text(encoding="utf-8")
