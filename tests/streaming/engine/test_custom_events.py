"""Features on ``x.*`` count every custom type but those that definitions or the platform emit."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_streaming.contract.log_entries import Event, encode_entry
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.state.store import MemoryState

TYPES = ("view", "click", "x.play", "x.skip", "x.named", "search", "x.emitted", "x.stage_lost")
DEFINITIONS = """
- {name: own, entity: user, event: x.*, aggregate: count, window: {size: 1d}}
- {name: both, entity: user, event: [view, x.*], aggregate: count, window: {size: 1d}}
- {name: named, entity: user, event: x.named, aggregate: count, window: {size: 1d}}
- {name: emitted, entity: user, event: x.emitted, aggregate: count, window: {size: 1d}}
- {name: pair, entity: user, sequence: [click, search], within: 1h, emit: emitted}
"""


@given(st.lists(st.sampled_from(TYPES), max_size=30), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_all_custom_types_count(types: list[str], batch: int) -> None:
    engine = Engine(load_definitions(DEFINITIONS), MemoryState())
    records = [
        (n, encode_entry(Event(event_id=f"{n}", type=type_, timestamp=1_000 + n, user_id="u")))
        for n, type_ in enumerate(types)
    ]
    for start in range(0, len(records), batch):
        engine.apply(records[start : start + batch])
    emitted = ("x.emitted", "x.stage_lost")
    own = sum(type_.startswith("x.") and type_ not in emitted for type_ in types)
    wanted = {
        "own": own,
        "both": own + types.count("view"),
        "named": types.count("x.named"),
        "emitted": types.count("x.emitted"),
    }
    read = engine.read("user", "u", 5_000)
    assert {name: read[name] for name in wanted} == wanted
