"""Features, a sequence and an action, computed in this process from a log in memory.

Two people put a cup in their carts; one buys it, the other one leaves. Ten minutes later the second
one gets a coupon. Run it: ``python examples/abandoned_cart.py``.
"""

from pathlib import Path

from tactful_streaming import (
    Engine,
    Entry,
    Event,
    Item,
    MemoryState,
    Tick,
    encode_entry,
    load_definitions,
)

DEFINITIONS = Path(__file__).with_suffix(".yaml")
NOON = 1_767_268_800_000  # 2026-01-01T12:00Z, epoch milliseconds
MINUTE = 60_000


def event(user: str, type_: str, minute: int) -> Event:
    """What `user` did with the cup, so many minutes after noon."""
    return Event(
        event_id=f"{user}-{minute}-{type_}",
        type=type_,
        timestamp=NOON + minute * MINUTE,
        user_id=user,
        item_id="cup",
    )


class Log:
    """A log in memory and the engine that follows it, as a server would."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.records: list[tuple[int, bytes]] = []
        self.engine = Engine(load_definitions(DEFINITIONS), MemoryState())

    def append(self, *entries: Entry) -> None:
        """Append `entries` and apply them; what follows from them is appended, too."""
        for entry in entries:
            self.records.append((len(self.records), encode_entry(entry)))
        self.engine.apply(self.records[self.engine.offset :])
        self.engine.commit()
        if actions := self.engine.outbox():
            self.append(*actions)
            self.engine.sent(actions)


def main() -> None:
    """Run the example."""
    log = Log()
    log.append(Item(item_id="cup", timestamp=NOON, category="kitchen", price=8.0))
    log.append(event("ada", "view", 0), event("bob", "view", 0))
    log.append(event("ada", "add_to_cart", 2), event("bob", "add_to_cart", 2))
    log.append(event("ada", "purchase", 5))

    def show(minute: int) -> None:
        print(f"12:{minute:02}")
        for user in ("ada", "bob"):
            values = log.engine.read("user", user, NOON + minute * MINUTE)
            print(f"  {user}: {values}")

    show(5)
    # Nobody does anything any more. A server notices, and writes the time into the log.
    log.append(Tick(timestamp=NOON + 13 * MINUTE))
    show(13)


if __name__ == "__main__":
    main()
