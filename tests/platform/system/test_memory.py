"""What a server process holds after its start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("faiss", "matplotlib", "mlflow", "pandas", "pyarrow", "sklearn", "torch", "xgboost")


@pytest.mark.slow
def test_a_started_server_holds_only_what_it_runs(tmp_path: Path) -> None:
    """It has not loaded the libraries of training, nor kept the compiler's code resident."""
    command = [sys.executable, "-m", "tactful", "serve", "--dev", "--json", "--port", "0"]
    with subprocess.Popen(
        [*command, "--data", str(tmp_path / "data")], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            assert json.loads(server.stdout.readline())["pid"] == server.pid
            maps = Path(f"/proc/{server.pid}/smaps").read_text()
            pages = int(Path(f"/proc/{server.pid}/statm").read_text().split()[1])
        finally:
            server.terminate()
    loaded = {name for name in (*HEAVY, "scipy/special") if f"/site-packages/{name}/" in maps}
    assert not loaded
    assert pages * 4096 < 180 << 20, "284 MB with the compiler's code, scipy.special and faiss"
