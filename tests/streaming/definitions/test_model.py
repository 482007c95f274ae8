from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful_streaming.definitions.model import (
    AGGREGATES,
    ENTITIES,
    AnyWindow,
    CumulativeWindow,
    Definitions,
    Feature,
    ForwardDecay,
    Join,
    Sequence,
    SessionWindow,
    Step,
    Window,
    dump_definitions,
)
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.errors import DefinitionError

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
- {name: heat, entity: category, event: view, aggregate: distinct_users, window: {size: 1h}}
- {name: brands, entity: user, event: view, aggregate: top_k, of: item.brand, n: 3,
   window: {gap: 30m}}
- {name: dear, entity: item, event: purchase, aggregate: quantile, of: item.price, q: 0.9,
   window: {size: 1d, step: 1h}}
- {name: interest, entity: user, event: view, aggregate: count, group_by: category, max_groups: 9,
   window: {half_life: 7d}}
- {name: spend, entity: user, event: purchase, aggregate: mean, of: properties.price,
   window: {size: 30d, tail: approximate}}
- name: abandoned
  entity: user
  sequence:
    - view
    - {event: [view, click], optional: true, times: [2, null]}
    - {not: remove_from_cart}
    - {event: any, times: 3}
    - {event: add_to_cart, times: [1, 2]}
    - {not: [purchase, payment], for: 10m}
  within: 5m
  contiguity: strict
  skip: to_next
  same: item_id
- {name: cart, entity: user, sequence: [add_to_cart, leave], within: 1h, emit: coupon}
- {name: now, entity: user, join: {event: view, with: item_updates}, emit: seen}
"""

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


def test_written_definitions_are_read() -> None:
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
        Feature(
            name="heat",
            entity="category",
            events=("view",),
            aggregate="distinct",
            of="user_id",
            sketch="hll",
            window=Window(HOUR, HOUR),
        ),
        Feature(
            name="brands",
            entity="user",
            events=("view",),
            aggregate="top_k",
            of="item.brand",
            n=3,
            window=SessionWindow(30 * MINUTE),
        ),
        Feature(
            name="dear",
            entity="item",
            events=("purchase",),
            aggregate="quantile",
            of="item.price",
            q=0.9,
            sketch="kll",
            window=CumulativeWindow(DAY, HOUR),
        ),
        Feature(
            name="interest",
            entity="user",
            events=("view",),
            aggregate="count",
            group_by="category",
            max_groups=9,
            window=ForwardDecay(7 * DAY),
        ),
        Feature(
            name="spend",
            entity="user",
            events=("purchase",),
            aggregate="mean",
            of="properties.price",
            window=Window(30 * DAY, DAY, tail="approximate"),
        ),
    ) == features


def test_sequences_and_joins_are_read() -> None:
    definitions = load_definitions(GOOD)
    (sequence, cart), (join,) = definitions.sequences, definitions.joins
    assert sequence == Sequence(
        name="abandoned",
        entity="user",
        steps=(
            Step(("view",)),
            Step(("view", "click"), optional=True, least=2, most=None),
            Step(("remove_from_cart",), negated=True),
            Step((), least=3, most=3),
            Step(("add_to_cart",), least=1, most=2),
            Step(("purchase", "payment"), negated=True, for_ms=10 * MINUTE),
        ),
        within_ms=5 * MINUTE,
        contiguity="strict",
        skip="to_next",
        same="item_id",
    )
    assert cart.emit == "coupon"
    assert join == Join("now", "user", ("view",), 10_000, "seen")
    assert definitions.lines["views_5m"] == 2
    assert definitions.lines["abandoned"] == 22
    assert len(definitions.lines) == len(definitions.all)


def test_an_approximate_tail_sets_the_slide_and_adds_a_pane() -> None:
    slides = {"12d": DAY, "11d": HOUR, "12h": HOUR, "11h": 5 * MINUTE, "1h": 5 * MINUTE}
    for size, slide in {**slides, "59m": MINUTE}.items():
        text = GOOD.replace("30d, tail", f"{size}, tail")
        window = load_definitions(text).features[-1].window
        assert isinstance(window, Window)
        assert window.slide_ms == slide
        assert window.span_ms == window.size_ms + slide == window.panes * slide


LINE = "- {name: a, entity: user, event: view, aggregate: count, window: {size: 5m}}\n"


def changed(old: str, new: str) -> str:
    assert old in LINE
    return LINE + LINE.replace("name: a", "name: b").replace(old, new)


def pattern(sequence: str) -> str:
    return f"- {{name: s, entity: user, within: 5m, sequence: {sequence}}}\n"


def pair(join: str) -> str:
    return f"- {{name: j, entity: user, join: {{{join}}}}}\n"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("name: a", 1, "list of features"),
        ("- [1]", 1, "a feature is written as keys and values"),
        (LINE + "- {", 2, "not YAML"),
        ("\x00", 1, "not YAML"),
        ("[" * 5000, 1, "not YAML"),
        (LINE + LINE, 2, "name: 'a' is taken by the definition of line 1"),
        (LINE + "- {name: B}", 2, "name: 'B'"),
        (LINE + "- {entity: user}", 2, "name is missing"),
        (changed("entity: user", "entity: shop"), 2, "entity: 'shop' is not one of user, item"),
        (changed("event: view", "event: look"), 2, "event: 'look' is not one of add_to_cart"),
        (changed("event: view", "event: []"), 2, "event: the list is empty"),
        (changed("event: view", "event: [view, view]"), 2, "event: 'view' is listed twice"),
        (changed("event: view", "event: {a: b}"), 2, "event: a single value"),
        (changed("event: view", "event: x."), 2, "event: 'x.'"),
        (changed("count", "median"), 2, "aggregate: 'median' is not one of count, sum, mean"),
        (changed("event: view", "event: view, colour: red"), 2, "'colour' is no key of a feature"),
        (changed("event: view", "event: view, event: view"), 2, "event comes twice"),
        (changed("size: 5m", "size: 0m"), 2, "window: size: '0m' is no duration above zero"),
        (changed("size: 5m", "syze: 5m"), 2, "did you mean 'size'?"),
        (changed("event: view", "event: viewed"), 2, "did you mean 'view'?"),
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
        (changed("size: 5m", "size: 5m, tail: rough"), 2, "tail: 'rough' is not one of exact, app"),
        (changed("size: 5m", "size: 90s, tail: approximate"), 2, "no whole multiple of the slide"),
        (changed("size: 5m", "size: 1441d, tail: approximate"), 2, "1441 panes in a window"),
        (changed("size: 5m", "size: 5m, tail: approximate, slide: 1m"), 2, "slide: not with tail"),
        (changed("size: 5m", "size: 5m, tail: approximate, decay: 1"), 2, "decay: not with tail"),
        (changed("size: 5m", "gap: 0s"), 2, "window: gap: '0s' is no duration above zero"),
        (changed("size: 5m", "gap: 5m, size: 5m"), 2, "'size' is no key of a session window"),
        (changed("size: 5m", "half_life: 0d"), 2, "window: half_life: '0d' is no duration"),
        (changed("size: 5m", "half_life: 5d, slide: 1m"), 2, "'slide' is no key of a forward"),
        (changed("size: 5m", "size: 5m, step: 0m"), 2, "window: step: '0m' is no duration"),
        (changed("size: 5m", "size: 5m, step: 2m"), 2, "no whole multiple of the step 2m"),
        (changed("size: 5m", "size: 5d, step: 1s"), 2, "choose a longer step"),
        (changed("size: 5m", "step: 1m"), 2, "window: size is missing"),
        (changed("size: 5m", "sise: 5m"), 2, "'sise' is no key of a window"),
        (changed("window: {size: 5m}", "window: 5m"), 2, "window: a window is written as keys"),
        (changed(", window: {size: 5m}", ""), 2, "window is missing: count needs it"),
        (changed("count", "sum"), 2, "of is missing: sum needs it"),
        (changed("count", "sum, of: item_id"), 2, "of: 'item_id' is not a number"),
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
        (changed("count", "max, of: item.category"), 2, "of: 'item.category' is not a number"),
        (changed("count", "distinct, of: item.price"), 2, "of: 'item.price' is not one of"),
        (changed("count", "distinct, of: item."), 2, "of: 'item.' is not one of"),
        (changed("count", "distinct_users, of: item_id"), 2, "distinct_users takes none"),
        (changed("count", "distinct, of: item_id, sketch: kll"), 2, "sketch: 'kll' is not one of"),
        (changed("count", "distinct, of: item_id, group_by: item_id"), 2, "distinct takes none"),
        (
            changed("count", "distinct, of: item_id, max_groups: 5"),
            2,
            "only beside group_by, top_k",
        ),
        (changed("count", "count, sketch: hll"), 2, "sketch: count takes none"),
        (changed("count", "top_k, of: item_id"), 2, "n is missing: top_k needs it"),
        (changed("count", "top_k, n: 3"), 2, "of is missing: top_k needs it"),
        (changed("count", "quantile, of: properties.x"), 2, "q is missing: quantile needs it"),
        (changed("count", "quantile, of: properties.x, q: 1.1"), 2, "q: '1.1' is not a number in"),
        (changed("count", "quantile, of: properties.x, q: .inf"), 2, "q: '.inf' is not a number"),
        (changed("count", "count, q: 0.5"), 2, "q: count takes none"),
        (
            changed("count, window: {", "max, of: item.price, window: {decay: 0.5, "),
            2,
            "window: decay: max takes none",
        ),
        (
            LINE.replace(
                "count, window: {size: 5m}", "min, of: item.price, window: {half_life: 5m}"
            ),
            1,
            "window: half_life: min takes none",
        ),
        (
            LINE + "- &f {name: b, entity: user, event: view, aggregate: count, window: *f}",
            2,
            "window: 'name' is no key of a window",
        ),
        (pattern("[view]").replace("within: 5m, ", ""), 1, "within is missing: without a bound"),
        (pattern("[view]").replace("5m", "0m"), 1, "within: '0m' is no duration above zero"),
        (pattern("[view]") + pattern("[click]"), 2, "name: 's' is taken"),
        (pattern("[view], of: item_id"), 1, "'of' is no key of a sequence"),
        (pattern("[]"), 1, "sequence: a list of steps is needed"),
        (pattern("view"), 1, "sequence: a list of steps is needed"),
        (pattern("[" + "view, " * 33 + "]"), 1, "sequence: 33 steps; at most 32"),
        (pattern("&a [view, *a]"), 1, "sequence: a sequence cannot hold itself"),
        (pattern("[view, {event: look}]"), 1, "event: 'look' is not one of"),
        (pattern("[{event: view, time: 2}]"), 1, "'time' is no key of a step"),
        (pattern("[{optional: true}]"), 1, "event is missing"),
        (pattern("[{event: view, optional: yes}]"), 1, "optional: 'yes' is not one of true, false"),
        (pattern("[{event: view, optional: true}]"), 1, "every step is optional"),
        (pattern("[{event: view, times: 0}, click]"), 1, "times: '0' is not a whole number from 1"),
        (pattern("[{event: view, times: [3, 2]}]"), 1, "at least 3 and at most 2 cannot be"),
        (pattern("[{event: view, times: [1]}]"), 1, "two numbers are needed"),
        (pattern("[view, {event: click, times: [2, null]}]"), 1, "without an upper bound"),
        (
            pattern(
                "[{event: view, times: [1, null]}, {event: click, optional: true}, {not: any}]"
            ),
            1,
            "without an upper bound",
        ),
        (pattern("[{not: view}, click]"), 1, "cannot begin with what must not come"),
        (pattern("[{not: view}]"), 1, "cannot begin with what must not come"),
        (pattern("[view, {not: click}, {not: leave}]"), 1, "not: follows another not"),
        (pattern("[view, {not: click, for: 5m}, leave]"), 1, "for: only the last step"),
        (pattern("[view, {not: click, for: 0s}]"), 1, "for: '0s' is no duration above zero"),
        (pattern("[view, {event: click, for: 5m}]"), 1, "for: only beside not"),
        (pattern("[view, {not: click, optional: true}]"), 1, "'optional' is no key of a step with"),
        (pattern("[view], skip: none"), 1, "skip: 'none' is not one of past_last, to_next"),
        (pattern("[view], contiguity: loose"), 1, "contiguity: 'loose' is not one of strict, rel"),
        (pattern("[view], same: item.price"), 1, "same: 'item.price' is not one of"),
        (pattern("[view], emit: A B"), 1, "emit: 'A B' is not of lower-case letters"),
        (pair("event: view"), 1, "join: with is missing"),
        (pair("with: item_updates"), 1, "join: event is missing"),
        (pair("event: view, with: users"), 1, "with: 'users' is not one of item_updates"),
        (pair("event: view, with: item_updates, within: 0s"), 1, "within: '0s' is no duration"),
        (pair("event: view, with: item_updates, on: x"), 1, "'on' is no key of a join"),
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
    with pytest.raises(DefinitionError, match=r"yaml:1: cannot be read as UTF-8.*save it as UTF-8"):
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


texts = st.sampled_from(["item_id", "category", "user_id", "properties.colour", "item.brand"])
numbers = st.sampled_from(["properties.price", "item.price", "item.weight"])
durations = st.integers(1, 10**9)
panes = st.tuples(st.sampled_from([1, 250, 60_000, 86_400_000]), st.integers(1, 100))
decays = st.floats(0, 1, exclude_min=True, allow_subnormal=False)
types = st.lists(st.sampled_from(["view", "click", "x.a"]), min_size=1, unique=True).map(tuple)


@st.composite
def windows(draw: st.DrawFn, aggregate: str) -> AnyWindow | None:
    if aggregate == "last_n":
        return draw(st.none() | durations.map(lambda ms: Window(ms, ms)))
    if aggregate == "last_time":
        return None
    slide, count = draw(panes)
    decaying = aggregate in ("count", "sum", "mean")
    kinds: list[st.SearchStrategy[AnyWindow]] = [
        st.just(Window(slide * count, slide, draw(decays) if decaying else 1.0)),
        st.just(CumulativeWindow(slide * count, slide)),
        durations.map(SessionWindow),
        st.just(Window(count * 86_400_000 * 12, 86_400_000, tail="approximate")),
    ]
    if aggregate in ("count", "sum"):
        kinds.append(durations.map(ForwardDecay))
    return draw(st.one_of(kinds))


@st.composite
def features(draw: st.DrawFn, name: str) -> Feature:
    aggregate = draw(st.sampled_from(AGGREGATES))
    numeric = aggregate in ("sum", "mean", "min", "max", "last", "quantile")
    grouped = draw(st.booleans()) and aggregate not in (
        "last",
        "last_n",
        "distinct",
        "top_k",
        "quantile",
    )
    feature = Feature(
        name=name,
        entity=draw(st.sampled_from(ENTITIES)),
        events=draw(types),
        aggregate=aggregate,
        of=None if aggregate in ("count", "last_time") else draw(numbers if numeric else texts),
        group_by=draw(texts) if grouped else None,
        n=draw(st.integers(1, 1000)) if aggregate in ("last_n", "top_k") else None,
        q=draw(st.floats(0, 1)) if aggregate == "quantile" else None,
        sketch=draw(st.sampled_from(["hll", "exact"])) if aggregate == "distinct" else None,
        window=draw(windows(aggregate)),
    )
    bound = draw(st.integers(1, 5000)) if feature.bounds_groups else feature.max_groups
    return replace(feature, max_groups=bound)


@st.composite
def sequences(draw: st.DrawFn, name: str) -> Sequence:
    steps = [Step(draw(types))]
    for _ in range(draw(st.integers(0, 5))):
        least = draw(st.integers(1, 5))
        times = st.sampled_from([(least, least), (least, least + 3), (least, None)])
        steps.append(Step(draw(types | st.just(())), draw(st.booleans()), *draw(times)))
    steps.append(Step(draw(types)))
    if draw(st.booleans()):
        until = draw(st.none() | durations)
        steps.append(Step(draw(types | st.just(())), negated=True, for_ms=until))
    may_emit = all(step.events or step.negated for step in steps)  # any would be its own action
    return Sequence(
        name=name,
        entity=draw(st.sampled_from(ENTITIES)),
        steps=tuple(steps),
        within_ms=draw(durations),
        contiguity=draw(st.sampled_from(["strict", "relaxed"])),
        skip=draw(st.sampled_from(["past_last", "to_next"])),
        same=draw(st.none() | texts),
        emit=draw(st.none() | st.just("coupon")) if may_emit else None,
    )


@given(st.data(), st.integers(0, 4))
def test_dumped_definitions_read_the_same(data: st.DataObject, count: int) -> None:
    definitions = Definitions(
        tuple(data.draw(features(f"f{i}")) for i in range(count)),
        tuple(data.draw(sequences(f"s{i}")) for i in range(count // 2)),
        tuple(Join(f"j{i}", "user", data.draw(types), 1 + i, None) for i in range(count // 2)),
    )
    again = load_definitions(dump_definitions(definitions))
    assert definitions == again
    assert definitions.fingerprint == again.fingerprint


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        load_definitions(text)
    except DefinitionError as error:
        assert str(error).startswith("features:")
