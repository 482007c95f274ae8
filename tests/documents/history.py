"""Write the files of a made-up shop with two months of history up to now."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from tests.platform.shop import HOUR, make_shop


def write_shop(folder: Path, now: int) -> None:
    """Write ``items.ndjson`` and ``events.ndjson``; the last event is an hour before `now`."""
    shop = make_shop(7, people=30, items=60, days=40)
    later = now - HOUR - int(shop.timestamp[-1])
    events = (
        {**event, "timestamp": event["timestamp"] + later} for event in shop.events(0, len(shop))
    )
    for name, elements in (("items", shop.items), ("events", events)):
        lines = "".join(json.dumps(element) + "\n" for element in elements)
        (folder / f"{name}.ndjson").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    write_shop(Path(sys.argv[1]), int(time.time() * 1000))
