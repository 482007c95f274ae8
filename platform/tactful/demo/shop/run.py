"""``tactful demo --shop``: a web shop to click in, on a server of its own."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from tactful.client import Client
from tactful.config.load import load_settings
from tactful.demo.datasets import Replay
from tactful.demo.replay import Replayer
from tactful.demo.server_process import (
    SETTINGS,
    clear,
    last_line,
    running_server,
    write_settings,
)
from tactful.demo.shop.customers import NAMES, make_customers, make_history
from tactful.demo.shop.goods import make_goods
from tactful.demo.shop.site import Shop, Site, serving, socket_at
from tactful.errors import TactfulError
from tactful.rerank.arm_policy import RANKING_EXPERIMENT
from tactful.util.clock import now_ms
from tactful.util.signals import on_stop_signals

NEWCOMER = "newcomer"
_ARMS = {
    "relevance": ("What fits best", {}),
    "cheaper": ("Cheaper first", {"objective": {"price": 0.02}}),
    "newer": ("New arrivals first", {"objective": {"freshness": 0.02}}),
    "mixed": ("More variety", {"diversity": {"strength": 0.01, "places": 12}}),
}
_RECALL_S = 30.0


@dataclass(frozen=True)
class ShopOptions:
    """Options of the shop."""

    directory: Path = Path("tactful-data/shop")  # data directory of the run; it is made anew
    port: int = 8420  # TCP port of the shop's pages; 0 takes a free one


def run_shop(
    options: ShopOptions,
    opened: Callable[[str, str], object],
) -> None:
    """Make the shop up and serve it; return after SIGTERM or Ctrl-C.

    `opened` is called once it serves, with the addresses of its pages and of the server.

    Raises:
        TactfulError: if the port or the directory cannot be used, or the server fails.
    """
    stop = threading.Event()
    now = now_ms()
    goods = tuple(make_goods(now=now))
    customers = make_customers()
    tastes = {it.user_id: it.favourites for it in customers[: len(NAMES)]}
    shop = Shop(
        goods,
        {user: f"{user.capitalize()}, likes {' and '.join(of)}" for user, of in tastes.items()}
        | {NEWCOMER: "A new customer"},
        {name: title for name, (title, _) in _ARMS.items()},
        RANKING_EXPERIMENT,
    )
    with socket_at(options.port) as listening:
        clear(options.directory)
        _write(options.directory)
        _say("Starting the server; the first time it also compiles code")
        with (
            running_server(options.directory, 0) as (process, url),
            Client(url, timeout=60.0) as client,
        ):
            history = make_history(goods, customers, now=now)
            _fill(client, history)
            _say("Learning which items go together")
            _learn_recall(options.directory, client)
            with (
                serving(listening, Site(shop, client, url)) as address,
                on_stop_signals(stop.set),
            ):
                _say(_welcome(address, url, history.title))
                opened(address, url)
                while not stop.wait(0.2):
                    if process.poll() is not None:
                        log = options.directory / "server.log"
                        raise TactfulError(f"the server has ended: {last_line(log)}")
    _say("The shop and its server have ended.")


def _write(directory: Path) -> None:
    write_settings(
        directory,
        # Recall is learned at once, below; this is for what the visitor does.
        '\n[recommend]\nexperiments = "experiments.yaml"\n\n[training]\nrecall_seconds = 30\n',
    )
    arms = [
        {"name": name, "weight": 1 / len(_ARMS), **({"parameters": parts} if parts else {})}
        for name, (_, parts) in _ARMS.items()
    ]
    experiment = {"key": RANKING_EXPERIMENT, "arms": arms}
    (directory / "experiments.yaml").write_text(json.dumps([experiment], indent=1), "utf-8")


def _fill(client: Client, history: Replay) -> None:
    """Send items, customers and what they did."""
    replayer = Replayer(client, history)
    total = len(history.items) + len(history.users) + len(history)
    with tqdm(desc="items, customers, events", total=total, unit="", dynamic_ncols=True) as bar:

        def advance(count: int) -> None:
            bar.update(count)

        replayer.upsert(advance)
        replayer.send(len(history), advance)
    replayer.settle()


def _learn_recall(directory: Path, client: Client) -> None:
    """Learn recall from the log, and wait until the server has it and counts what is popular."""
    from tactful.models.untrained_recall import learn_recall  # takes seconds, with XGBoost

    learn_recall(load_settings(directory / SETTINGS))
    deadline = time.monotonic() + _RECALL_S
    while not (client.models()["indexed_items"] and client.popular(count=1).items):
        if time.monotonic() > deadline:
            raise TactfulError(f"the server did not take over recall within {_RECALL_S:g} s")
        time.sleep(0.1)


def _welcome(address: str, server: str, title: str) -> str:
    lines = [
        "",
        f"The shop is open: {address}",
        f"  {title}",
        f"  its server: {server} (documentation: {server}/docs)",
        "  Ctrl-C ends both",
    ]
    return "\n".join(lines)


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)
