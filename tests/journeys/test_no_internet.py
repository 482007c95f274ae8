"""A machine without internet, and without torch: all of it works, or it says what is left out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.journeys.installation import Terminal, wait_until
from tests.journeys.visits import category, taste, visits, write_csv
from tests.platform.demo.test_demo import check_report

pytestmark = pytest.mark.slow

# Loopback is down in a new namespace of the network.
_LOOPBACK = """
import fcntl, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    up = struct.pack("16sh", b"lo", 1)
    fcntl.ioctl(any_socket, 0x8914, up)  # SIOCSIFFLAGS, IFF_UP
print("up", flush=True)
sys.stdin.read()
"""

_BLOCK = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "flwr", "opacus"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""


@pytest.fixture
def offline(terminal: Terminal) -> Iterator[Terminal]:
    """A terminal that reaches this machine only."""
    command = ["unshare", "-n", sys.executable, "-c", _LOOPBACK]
    try:
        holder = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except OSError as error:
        pytest.skip(f"no network namespace can be made here: {error}")
    with holder:
        assert holder.stdout is not None and holder.stderr is not None
        if holder.stdout.readline() != "up\n":
            pytest.skip(f"no network namespace can be made here: {holder.stderr.read()}")
        before = ("nsenter", "--net", "--target", str(holder.pid))
        inside = Terminal(terminal.programs, terminal.folder, before)
        call = "import socket; socket.create_connection(('192.0.2.1', 80), 5)"
        refused = inside.start(f'python -c "{call}"', stderr=subprocess.PIPE)
        assert "Network is unreachable" in refused.communicate()[1]
        yield inside
        assert holder.stdin is not None
        holder.stdin.close()


def test_a_shop_that_knows_purchases_alone(offline: Terminal) -> None:
    """One table of orders is enough: it describes the items, too."""
    rows = visits()
    orders = (
        (f"c{r.visitor}", r.visit, r.item, category(r.item), 3.5, 1, f"{r.at:%d.%m.%Y %H:%M:%S}")
        for r in rows
    )
    header = "Customer ID,Order No,SKU,Department,Unit price,Qty,Ordered at"
    write_csv(offline.folder / "orders.csv", header, orders)
    with offline.serving() as shop:
        told = shop.run("tactful import orders.csv").err
        assert "type                = purchase" in told
        assert "note: only items that are described are recommended" in told
        sent = shop.run("tactful import orders.csv --kind items").out
        assert f"40 accepted, 0 rejected, {len(rows) - 40} repeated" in sent
        trained = json.loads(shop.run("tactful train --promote --json").out.splitlines()[-1])
        if not trained["alias"]:
            shop.run(f"tactful models promote {trained['version']}")

        def answer() -> dict[str, Any]:
            line = "tactful recommend --user c1 --count 8 --json"
            content: dict[str, Any] = json.loads(shop.run(line).out)
            return content

        wait_until(lambda: answer()["model_version"] == trained["version"])
        chosen = [category(it["item_id"]) for it in answer()["items"]]
        assert chosen.count(taste(1)) >= 7, chosen
        assert "tea-1" in shop.run("tactful items list --limit 40").out
        assert "ok " in shop.run("tactful doctor --port 0").out


@pytest.mark.timeout(900)
def test_the_quick_demo_without_internet_and_torch(offline: Terminal) -> None:
    """It asks no server for packages, data or telemetry, and leaves the intent model out."""
    blocked = offline.folder / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(_BLOCK)
    variables = {"PYTHONPATH": str(blocked)}
    terminal = Terminal(offline.programs, offline.folder, offline.before, variables)
    process = terminal.start(
        "tactful demo --quick --port 0", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = process.communicate(timeout=800)
    assert process.returncode == 0, err[-2000:]
    reason = "torch and flwr are not installed: pip install 'tactful[federated]'"
    assert f"The intent model is left out: {reason}" in err
    assert f"Intent model: left out, {reason}" in out
    report = json.loads((terminal.folder / "reports/demo.json").read_bytes())
    check_report(report)
    assert report["quick"] is True
