from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful_streaming import (
    DefinitionError,
    Definitions,
    Feature,
    Window,
    dump_definitions,
    load_definitions,
)
from tactful_streaming.definitions import AGGREGATES, ENTITIES

GOOD = """\
# What a shopper did.
- {name: views_5m, entity: user, event: view, aggregate: count, group_by: category,
   window: {size: 5m, slide: 1m, decay: 0.8}}
- name: spend_30d
  entity: user
  event: [purchase, x.order]
  aggregate: sum
  of: properties.price
  window: {size: 30d}
- {name: recent, entity: session, event: view, aggregate: last_n, of: item_id, n: 50,
   window: {size: 1d}}
- {name: last_view, entity: item, event: view, aggregate: last_time}
"""

MINUTE, DAY = 60_000, 86_400_000


def test_what_is_written_is_read() -> None:
    features = load_definitions(GOOD).features
    assert (
        Feature(
            name="views_5m",
            entity="user",
            events=("view",),
            aggregate="count",
            group_by="category",
            window=Window(5 * MINUTE, MINUTE, 0.8),
        ),
        Feature(
            name="spend_30d",
            entity="user",
            events=("purchase", "x.order"),
            aggregate="sum",
            of="properties.price",
            window=Window(30 * DAY, 30 * DAY),
        ),
        Feature(
            name="recent",
            entity="session",
            events=("view",),
            aggregate="last_n",
            of="item_id",
            n=50,
            window=Window(DAY, DAY),
        ),
        Feature(name="last_view", entity="item", events=("view",), aggregate="last_time"),
    ) == features


LINE = "- {name: a, entity: user, event: view, aggregate: count, window: {size: 5m}}\n"


def changed(old: str, new: str) -> str:
    assert old in LINE
    return LINE + LINE.replace("name: a", "name: b").replace(old, new)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("name: a", 1, "list of features"),
        ("- [1]", 1, "a feature is written as keys and values"),
        (LINE + "- {", 2, "not YAML"),
        ("\x00", 1, "not YAML"),
        ("[" * 5000, 1, "not YAML"),
        (LINE + LINE, 2, "name: 'a' is taken by the feature of line 1"),
        (LINE + "- {name: B}", 2, "name: 'B'"),
        (LINE + "- {entity: user}", 2, "name is missing"),
        (changed("entity: user", "entity: shop"), 2, "entity: 'shop' is not one of user, item"),
        (changed("event: view", "event: look"), 2, "event: 'look' is not one of add_to_cart"),
        (changed("event: view", "event: []"), 2, "event: the list is empty"),
        (changed("event: view", "event: [view, view]"), 2, "event: 'view' is listed twice"),
        (changed("event: view", "event: {a: b}"), 2, "event: a single value"),
        (changed("event: view", "event: x."), 2, "event: 'x.'"),
        (changed("count", "mean"), 2, "aggregate: 'mean' is not one of count, sum, last_n"),
        (changed("event: view", "event: view, colour: red"), 2, "'colour' is no key of a feature"),
        (changed("event: view", "event: view, event: view"), 2, "event comes twice"),
        (changed("size: 5m", "size: 0m"), 2, "window: size: '0m' is no duration above zero"),
        (changed("size: 5m", "size: 5"), 2, "window: size: '5' is no duration"),
        (changed("size: 5m", "size: -5m"), 2, "window: size: '-5m' is no duration"),
        (changed("size: 5m", "size: 36526d"), 2, "window: size: '36526d' is longer than 36525d"),
        (changed("size: 5m", "slide: 1m"), 2, "window: size is missing"),
        (changed("size: 5m", "size: 5m, slide: 2m"), 2, "no whole multiple of the slide 2m"),
        (changed("size: 5m", "size: 5m, slide: 10m"), 2, "no whole multiple"),
        (changed("size: 5m", "size: 5d, slide: 1s"), 2, "at most 1440"),
        (
            changed("size: 5m", "size: 5m, decay: 0"),
            2,
            "window: decay: '0' is not a number in (0, 1]",
        ),
        (changed("size: 5m", "size: 5m, decay: 1.01"), 2, "decay: '1.01'"),
        (changed("size: 5m", "size: 5m, decay: -0.5"), 2, "decay: '-0.5'"),
        (changed("size: 5m", "size: 5m, decay: .nan"), 2, "decay: '.nan'"),
        (changed("size: 5m", "size: 5m, decay: [1]"), 2, "decay: a single value"),
        (
            changed("size: 5m", "size: 5m, tail: approximate"),
            2,
            "tail: not supported by the embedded",
        ),
        (changed("window: {size: 5m}", "window: 5m"), 2, "window: a window is written as keys"),
        (changed(", window: {size: 5m}", ""), 2, "window is missing: count needs it"),
        (changed("count", "sum"), 2, "of is missing: sum needs it"),
        (changed("count", "sum, of: item_id"), 2, "of: a sum is of a number"),
        (changed("count", "count, of: item_id"), 2, "of: count takes none"),
        (changed("count", "count, n: 3"), 2, "n: count takes none"),
        (changed("count", "count, group_by: price"), 2, "group_by: 'price' is not one of item_id"),
        (changed("count", "count, max_groups: 3"), 2, "max_groups: only beside group_by"),
        (changed("count", "count, group_by: item_id, max_groups: 0"), 2, "from 1 to"),
        (changed("count", "last_n, of: item_id"), 2, "n is missing: last_n needs it"),
        (changed("count", "last_n, of: item_id, n: 1001"), 2, "n: '1001' is not a whole number"),
        (changed("count", "last_n, of: item_id, n: 1.5"), 2, "n: '1.5' is not a whole number"),
        (
            changed("count", "last_n, of: item_id, n: 5, group_by: item_id"),
            2,
            "group_by: last_n takes none",
        ),
        (
            changed("count, window: {", "last_n, of: item_id, n: 5, window: {slide: 1m, "),
            2,
            "'slide' is no key",
        ),
        (changed("count", "last_time"), 2, "window: last_time takes none"),
        (
            LINE + "- name: b\n  entity: user\n  sequence: [view]",
            4,
            "sequence: not supported by the embedded engine in this version",
        ),
        (LINE + "- name: b\n\n  join: {event: view}", 4, "join: not supported"),
        (LINE + "- name: b\n\n\n  sketch: hll", 5, "sketch: not supported"),
    ],
)
def test_mistakes_are_named_with_their_line(text: str, line: int, words: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        load_definitions(text)
    assert str(caught.value).startswith(f"features:{line}: ")
    assert words in str(caught.value)


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "features.yaml"
    file.write_text(GOOD)
    assert load_definitions(GOOD) == load_definitions(file)
    file.write_text(GOOD.replace("n: 50", "n: fifty"))
    with pytest.raises(DefinitionError, match=r"features\.yaml:10: n: 'fifty'"):
        load_definitions(file)
    with pytest.raises(DefinitionError, match="cannot be read"):
        load_definitions(tmp_path / "absent.yaml")
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DefinitionError, match="cannot be read"):
        load_definitions(file)


def test_an_empty_file_has_no_features() -> None:
    assert load_definitions("# nothing yet\n").features == ()


def test_fingerprint_sees_meaning_not_form() -> None:
    spread = GOOD.replace("size: 5m", "size: 300s").replace("decay: 0.8", "decay: 0.80")
    assert load_definitions(GOOD).fingerprint == load_definitions(spread).fingerprint
    for old, new in [("0.8", "0.7"), ("n: 50", "n: 51"), ("30d", "31d"), ("recent", "newest")]:
        assert (
            load_definitions(GOOD).fingerprint
            != load_definitions(GOOD.replace(old, new)).fingerprint
        )


sources = st.sampled_from(["item_id", "category", "session_id", "user_id", "properties.colour"])
windows = st.builds(
    lambda slide, panes, decay: Window(slide * panes, slide, decay),
    st.sampled_from([1, 250, 1000, 60_000, 90_000, 86_400_000]),
    st.integers(1, 100),
    st.floats(0.01, 1).map(lambda x: round(x, 4)),
)


@st.composite
def features(draw: st.DrawFn, name: str) -> Feature:
    aggregate = draw(st.sampled_from(AGGREGATES))
    window: Window | None = draw(windows)
    grouped = aggregate != "last_n" and draw(st.booleans())
    of = {"sum": "properties.price", "last_n": draw(sources)}.get(aggregate)
    if aggregate == "last_n":
        window = draw(st.none() | st.builds(lambda ms: Window(ms, ms), st.integers(1, 10**9)))
    return Feature(
        name=name,
        entity=draw(st.sampled_from(ENTITIES)),
        events=tuple(draw(st.lists(st.sampled_from(["view", "x.a"]), min_size=1, unique=True))),
        aggregate=aggregate,
        of=of,
        group_by=draw(sources) if grouped else None,
        n=draw(st.integers(1, 1000)) if aggregate == "last_n" else None,
        max_groups=draw(st.integers(1, 5000)) if grouped else 2000,
        window=None if aggregate == "last_time" else window,
    )


@given(st.data(), st.integers(0, 5))
def test_dumped_definitions_read_the_same(data: st.DataObject, count: int) -> None:
    definitions = Definitions(tuple(data.draw(features(f"f{i}")) for i in range(count)))
    again = load_definitions(dump_definitions(definitions))
    assert definitions == again
    assert definitions.fingerprint == again.fingerprint


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        load_definitions(text)
    except DefinitionError as error:
        assert str(error).startswith("features:")
