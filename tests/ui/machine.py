"""State of a machine, as the routes for operators answer."""

from __future__ import annotations

import time
from typing import Any

NOW = round(time.time() * 1000)
RATE = 'tactful_ingested_per_second{kind="event",result="accepted"}'
CODES = "tactful_rejections_share"


def job(kind: str, state: str, **fields: Any) -> dict[str, Any]:
    times = {"started_at": NOW - 60_000, "updated_at": NOW - 1000}
    return {"id": f"1-{kind}", "kind": kind, "state": state, **times, **fields}


def system(**changes: Any) -> dict[str, Any]:
    check = {"name": "space", "state": "ok", "finding": "9.0 GiB free"}
    plain = {"status": "ok", "version": "0.1.0", "started_at": NOW - 7_200_000, "log": "embedded"}
    sizes = {"memory_bytes": 2**29, "disk_free_bytes": 9 * 2**30, "disk_bytes": 20 * 2**30}
    other = {"lag": 12, "watermark_at": NOW, "cpus": 4, "checks": [check]}
    return {**plain, **sizes, **other, **changes}


def metrics(query: dict[str, str]) -> dict[str, Any]:
    """Answer as the server does: what was asked for, without what nobody may see."""
    known = {
        "tactful_engine_lag": [0.0, None, 12.0],
        'tactful_freshness_seconds{quantile="0.99"}': [0.004, 0.02, 0.005],
        'tactful_freshness_seconds{quantile="0.5"}': [0.002, 0.003, 0.002],
        f'{CODES}{{code="in_future",kind="event"}}': [0.0, 0.1, 0.0],
        f'{CODES}{{code="no_consent",kind="event"}}': [0.0, 0.0, 0.0],
        RATE: [3.0, 5.0, 4.0],
    }
    names = query["names"].split()
    asked = {name: value for name, value in known.items() if {name, name.split("{")[0]} & {*names}}
    series = [{"name": name, "means": it, "highest": it} for name, it in asked.items()]
    times = [NOW - 20_000, NOW - 10_000, NOW]
    return {"since": 0, "until": NOW, "step_s": 10, "times": times, "series": series}
