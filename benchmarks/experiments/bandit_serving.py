"""Speed of served bandits, and the share of a known best arm over HTTP."""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.figures import Figure
from tactful.bandits.decisions import encode_decision
from tactful.bandits.definitions import read_bandit
from tactful.bandits.model import arrays_of, new_policy
from tactful.bandits.serving import PublishedBandit, ServedBandit

FIGURES = [
    ("served_bandit_decisions_per_s", "1/s"),
    ("bandit_request_added_ms", "ms"),
    ("bandit_http_best_arm_share", "1"),
    ("bandit_http_decide_p50_ms", "ms"),
]
_ARMS, _FEATURES = 20, 19
_RATES = (0.05, 0.05, 0.25, 0.05)
_BEST = 2


def figures(quick: bool) -> list[Figure]:
    """Decide in this process, then over HTTP by a server of its own."""
    return [*_in_process(2_000 if quick else 20_000), *_over_http(2_000 if quick else 8_000)]


def _in_process(decisions: int) -> list[Figure]:
    """Time a decision with its features, and the same with its log record."""
    plain: dict[str, Any] = {
        "key": "speed",
        "arms": [{"name": f"arm-{arm}", "value": arm} for arm in range(_ARMS)],
        "policy": "linear-thompson",
        "features": [{"user": f"f{number}", "scale": 10} for number in range(_FEATURES)],
        "reward": {"event": "click"},
    }
    definition, rng = read_bandit(plain), np.random.default_rng(0)
    published = PublishedBandit(definition, "live", arrays_of(new_policy(definition)))
    bandit = ServedBandit(published, rng)
    users = [
        {f"f{number}": float(rng.normal()) for number in range(_FEATURES)} for _ in range(decisions)
    ]
    rates, added = [], []
    about: dict[str, Any] = {"at": 1, "user_id": "u", "device_id": None, "session_id": None}
    for _ in range(5):
        start = time.process_time()
        for user in users:
            bandit.decide(user, {}, rng)
        rates.append(decisions / (time.process_time() - start))
        start = time.process_time()
        for user in users:
            encode_decision(bandit.decide(user, {}, rng), "decision", more={}, **about)
        added.append((time.process_time() - start) / decisions * 1_000)
    rates.sort()
    added.sort()
    note = f"linear Thompson of a served bandit, {_ARMS} arms, {_FEATURES + 1} columns, of CPU time"
    return [
        Figure("served_bandit_decisions_per_s", rates[2], "1/s", rates[0], rates[-1], 5, note),
        Figure(
            "bandit_request_added_ms",
            *(added[2], "ms", added[0], added[-1], 5),
            f"{note}; a decision and its log record, which a recommendation pays for a bandit",
        ),
    ]


def _over_http(decisions: int) -> list[Figure]:
    """Replay users with known rates, and return the share of the best arm in the last fifth."""
    definition = {
        "key": "replay",
        "arms": [{"name": f"arm-{arm}", "value": arm} for arm in range(len(_RATES))],
        "reward": {"event": "click", "within_hours": 0.001},
        "state": "live",
    }
    rng, chosen, took = np.random.default_rng(1), [], []
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder)) as client:
        client.post("/v1/bandits", json=definition).raise_for_status()
        clicks: list[dict[str, Any]] = []
        for number in range(decisions):
            start = time.perf_counter()
            answer = client.post("/v1/bandits/replay/decide", json={"user_id": f"u{number}"}).json()
            took.append((time.perf_counter() - start) * 1_000)
            chosen.append(int(answer["value"]))
            if rng.random() < _RATES[chosen[-1]]:
                clicks.append(_click(number, answer["decision_id"]))
            if clicks and number % 20 == 0:
                client.post("/v1/events", json=clicks).raise_for_status()
                clicks = []
            # Time in which a shop of this size would wait for its users.
            if number % 200 == 199:
                time.sleep(4.5)
    last = chosen[-decisions // 5 :]
    share = float(np.mean([arm == _BEST for arm in last]))
    return [
        Figure(
            "bandit_http_best_arm_share",
            *(share, "1", None, None, len(last)),
            f"of the last fifth of {decisions:,} decisions; rates {_RATES}, defaults, rewards "
            "within 3.6 s",
        ),
        Figure(
            "bandit_http_decide_p50_ms",
            *(float(np.median(took)), "ms", None, float(np.quantile(took, 0.99)), decisions),
            "one caller; high is the 99th percentile",
        ),
    ]


def _click(number: int, decision_id: str) -> dict[str, Any]:
    return {
        "event_id": f"c{number}",
        "type": "click",
        "user_id": f"u{number}",
        "timestamp": int(time.time() * 1_000),
        "properties": {"decision_id": decision_id},
    }


@contextlib.contextmanager
def _server(data: Path) -> Iterator[httpx.Client]:
    """Run a server of the product until it is ready, and yield a client of it."""
    command = [sys.executable, "-m", "tactful", "serve", "--dev", "--json", "--port", "0"]
    with subprocess.Popen(
        [*command, "--data", str(data)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            with httpx.Client(base_url=url, timeout=60) as client:
                while client.get("/readyz").status_code != 200:
                    time.sleep(0.1)
                yield client
        finally:
            process.terminate()
