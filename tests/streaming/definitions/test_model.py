from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful_streaming.definitions import model as d
from tactful_streaming.definitions.model import Feature, Join, Sequence, Step, Window
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

PRICE = "properties.price"


def feature(
    name: str,
    aggregate: str,
    window: d.AnyWindow | None,
    events: tuple[str, ...] = ("view",),
    *,
    entity: str = "user",
    **more: Any,
) -> Feature:
    return Feature(name, entity, events, aggregate, window=window, **more)


def test_written_definitions_are_read() -> None:
    bought, dear = ("purchase",), {"of": "item.price", "q": 0.9, "sketch": "kll"}
    heat: dict[str, Any] = {"entity": "category", "of": "user_id", "sketch": "hll"}
    assert load_definitions(GOOD).features == (
        feature("views_5m", "count", Window(5 * MINUTE, MINUTE, 0.8), group_by="category"),
        feature("spend_30d", "sum", Window(30 * DAY, 30 * DAY), ("purchase", "x.order"), of=PRICE),
        feature("recent", "last_n", Window(DAY, DAY), entity="session", of="item_id", n=50),
        feature("last_view", "last_time", None, entity="item"),
        feature("heat", "distinct", Window(HOUR, HOUR), **heat),
        feature("brands", "top_k", d.SessionWindow(30 * MINUTE), of="item.brand", n=3),
        feature("dear", "quantile", d.CumulativeWindow(DAY, HOUR), bought, entity="item", **dear),
        feature("interest", "count", d.ForwardDecay(7 * DAY), group_by="category", max_groups=9),
        feature("spend", "mean", Window(30 * DAY, DAY, tail="approximate"), bought, of=PRICE),
    )


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


CHANGES = """
count, window: {size: 5m} => count => window is missing: count needs it
count, window: {size => min, of: item.price, window: {half_life => half_life: min takes none
count, window: {size => last_n, of: item_id, n: 5, window: {slide: 1m, size => 'slide' is no key
count, window: {size => max, of: item.price, window: {decay: 0.5, size => decay: max takes none
entity: user => entity: shop => entity: 'shop' is not one of user, item
event: view => event: look => event: 'look' is not one of add_to_cart
event: view => event: [] => event: the list is empty
event: view => event: [view, view] => event: 'view' is listed twice
event: view => event: {a: b} => event: a single value
event: view => event: x. => event: 'x.'
count => median => aggregate: 'median' is not one of count, sum, mean
event: view => event: view, colour: red => 'colour' is no key of a feature
event: view => event: view, event: view => event comes twice
size: 5m => size: 0m => window: size: '0m' is no duration above zero
size: 5m => syze: 5m => did you mean 'size'?
event: view => event: viewed => did you mean 'view'?
size: 5m => size: 5 => window: size: '5' is no duration
size: 5m => size: -5m => window: size: '-5m' is no duration
size: 5m => size: 36526d => window: size: '36526d' is longer than 36525d
size: 5m => slide: 1m => window: size is missing
size: 5m => size: 5m, slide: 2m => no whole multiple of the slide 2m
size: 5m => size: 5m, slide: 10m => no whole multiple
size: 5m => size: 5d, slide: 1s => at most 1440
size: 5m => size: 5m, decay: 0 => window: decay: '0' is not a number in (0, 1]
size: 5m => size: 5m, decay: 1.01 => decay: '1.01'
size: 5m => size: 5m, decay: -0.5 => decay: '-0.5'
size: 5m => size: 5m, decay: .nan => decay: '.nan'
size: 5m => size: 5m, decay: [1] => decay: a single value
size: 5m => size: 5m, tail: rough => tail: 'rough' is not one of exact, app
size: 5m => size: 90s, tail: approximate => no whole multiple of the slide
size: 5m => size: 1441d, tail: approximate => 1441 panes in a window
size: 5m => size: 5m, tail: approximate, slide: 1m => slide: not with tail
size: 5m => size: 5m, tail: approximate, decay: 1 => decay: not with tail
size: 5m => gap: 0s => window: gap: '0s' is no duration above zero
size: 5m => gap: 5m, size: 5m => 'size' is no key of a session window
size: 5m => half_life: 0d => window: half_life: '0d' is no duration
size: 5m => half_life: 5d, slide: 1m => 'slide' is no key of a forward
size: 5m => size: 5m, step: 0m => window: step: '0m' is no duration
size: 5m => size: 5m, step: 2m => no whole multiple of the step 2m
size: 5m => size: 5d, step: 1s => choose a longer step
size: 5m => step: 1m => window: size is missing
size: 5m => sise: 5m => 'sise' is no key of a window
window: {size: 5m} => window: 5m => window: a window is written as keys
count => sum => of is missing: sum needs it
count => sum, of: item_id => of: 'item_id' is not a number
count => count, of: item_id => of: count takes none
count => count, n: 3 => n: count takes none
count => count, group_by: price => group_by: 'price' is not one of item_id
count => count, max_groups: 3 => max_groups: only beside group_by
count => count, group_by: item_id, max_groups: 0 => from 1 to
count => last_n, of: item_id => n is missing: last_n needs it
count => last_n, of: item_id, n: 1001 => n: '1001' is not a whole number
count => last_n, of: item_id, n: 1.5 => n: '1.5' is not a whole number
count => last_n, of: item_id, n: 5, group_by: item_id => group_by: last_n takes none
count => last_time => window: last_time takes none
count => max, of: item.category => of: 'item.category' is not a number
count => distinct, of: item.price => of: 'item.price' is not one of
count => distinct, of: item. => of: 'item.' is not one of
count => distinct_users, of: item_id => distinct_users takes none
count => distinct, of: item_id, sketch: kll => sketch: 'kll' is not one of
count => distinct, of: item_id, group_by: item_id => distinct takes none
count => distinct, of: item_id, max_groups: 5 => only beside group_by, top_k
count => count, sketch: hll => sketch: count takes none
count => top_k, of: item_id => n is missing: top_k needs it
count => top_k, n: 3 => of is missing: top_k needs it
count => quantile, of: properties.x => q is missing: quantile needs it
count => quantile, of: properties.x, q: 1.1 => q: '1.1' is not a number in
count => quantile, of: properties.x, q: .inf => q: '.inf' is not a number
count => count, q: 0.5 => q: count takes none
"""
PATTERNS = """
[view], of: item_id => 'of' is no key of a sequence
[] => sequence: a list of steps is needed
view => sequence: a list of steps is needed
&a [view, *a] => sequence: a sequence cannot hold itself
[view, {event: look}] => event: 'look' is not one of
[{event: view, time: 2}] => 'time' is no key of a step
[{optional: true}] => event is missing
[{event: view, optional: yes}] => optional: 'yes' is not one of true, false
[{event: view, optional: true}] => every step is optional
[{event: view, times: 0}, click] => times: '0' is not a whole number from 1
[{event: view, times: [3, 2]}] => at least 3 and at most 2 cannot be
[{event: view, times: [1]}] => two numbers are needed
[view, {event: click, times: [2, null]}] => without an upper bound
[{event: view, times: [1, null]}, {event: click, optional: true}, {not: any}] => an upper bound
[{not: view}, click] => cannot begin with what must not come
[{not: view}] => cannot begin with what must not come
[view, {not: click}, {not: leave}] => not: follows another not
[view, {not: click, for: 5m}, leave] => for: only the last step
[view, {not: click, for: 0s}] => for: '0s' is no duration above zero
[view, {event: click, for: 5m}] => for: only beside not
[view, {not: click, optional: true}] => 'optional' is no key of a step with
[view], skip: none => skip: 'none' is not one of past_last, to_next
[view], contiguity: loose => contiguity: 'loose' is not one of strict, rel
[view], same: item.price => same: 'item.price' is not one of
[view], emit: A B => emit: 'A B' is not of lower-case letters
"""
PAIRS = """
event: view => join: with is missing
with: item_updates => join: event is missing
event: view, with: users => with: 'users' is not one of item_updates
event: view, with: item_updates, within: 0s => within: '0s' is no duration
event: view, with: item_updates, on: x => 'on' is no key of a join
"""


def rows(table: str) -> list[list[str]]:
    return [line.split(" => ") for line in table.strip().splitlines()]


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
        (
            LINE + "- &f {name: b, entity: user, event: view, aggregate: count, window: *f}",
            2,
            "window: 'name' is no key of a window",
        ),
        (pattern("[view]").replace("within: 5m, ", ""), 1, "within is missing: without a bound"),
        (pattern("[view]").replace("5m", "0m"), 1, "within: '0m' is no duration above zero"),
        (pattern("[view]") + pattern("[click]"), 2, "name: 's' is taken"),
        (pattern("[" + "view, " * 33 + "]"), 1, "sequence: 33 steps; at most 32"),
        *((changed(old, new), 2, words) for old, new, words in rows(CHANGES)),
        *((pattern(sequence), 1, words) for sequence, words in rows(PATTERNS)),
        *((pair(join), 1, words) for join, words in rows(PAIRS)),
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
        other = load_definitions(GOOD.replace(old, new))
        assert load_definitions(GOOD).fingerprint != other.fingerprint


texts = st.sampled_from(["item_id", "category", "user_id", "properties.colour", "item.brand"])
numbers = st.sampled_from(["properties.price", "item.price", "item.weight"])
durations = st.integers(1, 10**9)
panes = st.tuples(st.sampled_from([1, 250, 60_000, 86_400_000]), st.integers(1, 100))
decays = st.floats(0, 1, exclude_min=True, allow_subnormal=False)
types = st.lists(st.sampled_from(["view", "click", "x.a"]), min_size=1, unique=True).map(tuple)


@st.composite
def windows(draw: st.DrawFn, aggregate: str) -> d.AnyWindow | None:
    if aggregate == "last_n":
        return draw(st.none() | durations.map(lambda ms: Window(ms, ms)))
    if aggregate == "last_time":
        return None
    slide, count = draw(panes)
    decaying = aggregate in ("count", "sum", "mean")
    kinds: list[st.SearchStrategy[d.AnyWindow]] = [
        st.just(Window(slide * count, slide, draw(decays) if decaying else 1.0)),
        st.just(d.CumulativeWindow(slide * count, slide)),
        durations.map(d.SessionWindow),
        st.just(Window(count * 86_400_000 * 12, 86_400_000, tail="approximate")),
    ]
    if aggregate in ("count", "sum"):
        kinds.append(durations.map(d.ForwardDecay))
    return draw(st.one_of(kinds))


@st.composite
def features(draw: st.DrawFn, name: str) -> Feature:
    aggregate = draw(st.sampled_from(d.AGGREGATES))
    numeric = aggregate in ("sum", "mean", "min", "max", "last", "quantile")
    ungrouped = ("last", "last_n", "distinct", "top_k", "quantile")
    grouped = draw(st.booleans()) and aggregate not in ungrouped
    feature = Feature(
        name=name,
        entity=draw(st.sampled_from(d.ENTITIES)),
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
        entity=draw(st.sampled_from(d.ENTITIES)),
        steps=tuple(steps),
        within_ms=draw(durations),
        contiguity=draw(st.sampled_from(["strict", "relaxed"])),
        skip=draw(st.sampled_from(["past_last", "to_next"])),
        same=draw(st.none() | texts),
        emit=draw(st.none() | st.just("coupon")) if may_emit else None,
    )


@given(st.data(), st.integers(0, 4))
def test_dumped_definitions_read_the_same(data: st.DataObject, count: int) -> None:
    definitions = d.Definitions(
        tuple(data.draw(features(f"f{i}")) for i in range(count)),
        tuple(data.draw(sequences(f"s{i}")) for i in range(count // 2)),
        tuple(Join(f"j{i}", "user", data.draw(types), 1 + i, None) for i in range(count // 2)),
    )
    again = load_definitions(d.dump_definitions(definitions))
    assert definitions == again
    assert definitions.fingerprint == again.fingerprint


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        load_definitions(text)
    except DefinitionError as error:
        assert str(error).startswith("features:")
