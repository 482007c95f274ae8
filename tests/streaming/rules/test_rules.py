"""Rules for each kind of invalid event; reading of rules; refusals with their line."""

import random
import re
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_streaming.contract.log_entries import Event, Item, encode_entry
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.errors import RuleError, StateError
from tactful_streaming.rules.conditions import ExpiringMap, classify, digest
from tactful_streaming.rules.rules import Dropped, Rules, load_rules
from tactful_streaming.rules.safe_regex import TEXT_LIMIT, compile_safely
from tactful_streaming.state.store import MemoryState

PACKAGED = Path(__file__).parents[3] / "platform" / "tactful" / "rules.yaml"
START = 1_700_000_000_000
SECOND, MINUTE, DAY = 1000, 60_000, 86_400_000

CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/126.0.0.0 Safari/537.36"
)


def event(type_: str = "view", at: int = 0, **changes: Any) -> Event:
    fields = {"event_id": "e", "user_id": "u", "item_id": "i", **changes}
    return Event(type=type_, timestamp=START + at, **fields)


def judge(rules: Rules, one: Event, **about: Any) -> str:
    """Return the rule that stopped an event; "" if it passed unchanged, else "changed"."""
    result = rules.clean(one, **about)
    if isinstance(result, Dropped):
        return result.rule
    return "" if result is one else "changed"


@pytest.fixture
def packaged() -> Rules:
    return load_rules(PACKAGED)


@pytest.mark.parametrize(
    ("user_agent", "rule"),
    [
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "crawlers"),
        ("Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)", "crawlers"),
        ("facebookexternalhit/1.1", "crawlers"),
        ("curl/8.5.0", "automation"),
        ("python-requests/2.31.0", "automation"),
        (CHROME.replace("Chrome", "HeadlessChrome"), "automation"),
        ("Pingdom.com_bot_version_1.4_(http://www.pingdom.com/)", "automation"),
        (CHROME, ""),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) Version/17.5 Safari/604.1", ""),
        ("Mozilla/5.0 (Linux; Android 9; CUBOT_X19) Chrome/120.0.0.0 Mobile Safari/537.36", ""),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:126.0) Gecko/20100101 Firefox/126.0", ""),
        ("Mozilla/4.0 (compatible; MSIE 8.0; Windows NT 6.1; Trident/4.0)", ""),
        ("Mozilla/5.0 (compatible; Konqueror/4.14; Linux) KHTML/4.14 (like Gecko)", ""),
        ("Mozilla/5.0 (iPhone) AppleWebKit/605.1.15 [FBAN/FBIOS;FBAV/466.0.0.42.103]", ""),
        ("Mozilla/5.0 (iPhone) AppleWebKit/605.1.15 [Pinterest/iOS]", ""),
        ("Mozilla/5.0 (SMART-TV; Linux; Tizen 7.0) SamsungBrowser/5.0 TV Safari/538.1", ""),
        ("ShopApp/5.2 (com.example.shop; build:11; Android 14) okhttp/4.12.0", ""),
        ("ShopApp/311 CFNetwork/1410.0.3 Darwin/22.6.0", ""),
        ("Dalvik/2.1.0 (Linux; U; Android 13; SM-G991B Build/TP1A)", ""),
        ("", ""),
    ],
)
def test_crawlers_and_automation(packaged: Rules, user_agent: str, rule: str) -> None:
    assert judge(packaged, event(context={"user_agent": user_agent})) == rule


def test_a_robot_that_calls_itself_a_browser(packaged: Rules) -> None:
    def visit(number: int, at: int, user: str = "robot") -> str:
        return judge(packaged, event(at=at, event_id=str(number), user_id=user))

    window = -START % MINUTE
    first = [visit(number, window + number * 100) for number in range(301)]
    assert first == [""] * 300 + ["too_fast"]
    assert visit(301, window + 31 * SECOND, "shopper") == ""
    assert visit(302, window + 29 * MINUTE) == "too_fast", "held for half an hour"
    assert visit(303, window + 31 * MINUTE) == ""


@pytest.mark.parametrize(
    ("type_", "properties", "rule"),
    [
        ("purchase", {"price": -0.01}, "negative_price"),
        ("purchase", {"quantity": -1}, "negative_price"),
        ("view", {"price": 1_000_001}, "impossible_price"),
        ("purchase", {"price": 1e308}, "impossible_price"),
        ("purchase", {"quantity": 100_001}, "impossible_price"),
        ("purchase", {"price": 501.0}, "impossible_price"),
        ("purchase", {"price": 500.0}, ""),
        ("purchase", {"price": 0}, ""),
        ("purchase", {"price": "-5"}, ""),
        ("purchase", {}, ""),
    ],
)
def test_impossible_prices(
    packaged: Rules, type_: str, properties: dict[str, Any], rule: str
) -> None:
    item = Item(item_id="i", timestamp=START, price=5.0)
    assert judge(packaged, event(type_, properties=properties), item=item) == rule


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"user_id": "test-17"}, "test_accounts"),
        ({"user_id": "qa_anna"}, "test_accounts"),
        ({"context": {"test": True}}, "test_accounts"),
        ({"user_id": "testa"}, ""),
        ({"user_id": "latest-17"}, ""),
        ({"context": {"test": "true"}}, ""),
    ],
)
def test_test_accounts(packaged: Rules, changes: dict[str, Any], rule: str) -> None:
    assert judge(packaged, event(**changes)) == rule


def test_refunds_need_a_purchase(packaged: Rules) -> None:
    def refund(at: int, **changes: Any) -> str:
        return judge(packaged, event("refund", at, **changes))

    assert refund(0) == "refund_without_order"
    assert judge(packaged, event("purchase", 1, properties={"price": -1})) == "negative_price"
    assert refund(2) == "refund_without_order", "what was set aside is no order"
    assert judge(packaged, event("purchase", 3)) == ""
    assert refund(4) == ""
    assert refund(5, item_id="other") == "refund_without_order"
    assert refund(6, user_id="other") == "refund_without_order"
    order = event("purchase", 7, item_id=None, properties={"order_id": "o1"})
    assert judge(packaged, order) == ""
    assert refund(8, item_id="other", properties={"order_id": "o1"}) == ""
    for properties in ({"order_id": "o1"}, {"order_id": "o2"}):
        assert refund(9, user_id="x", properties=properties) == "refund_without_order"
    assert refund(365 * DAY + 3) == "", "a year later to the millisecond"
    assert refund(365 * DAY + 4) == "refund_without_order"


def test_refunds_get_one_sign(packaged: Rules) -> None:
    packaged.clean(event("purchase"))
    result = packaged.clean(event("refund", 1, properties={"price": -5.5, "quantity": -2}))
    assert isinstance(result, Event)
    assert result.properties == {"price": 5.5, "quantity": 2}


def test_repeated_lines(packaged: Rules) -> None:
    line = {"properties": {"order_id": "o", "price": 2.0}}
    assert judge(packaged, event("purchase", 0, event_id="1", **line)) == ""
    assert judge(packaged, event("purchase", 0, event_id="2", **line)) == "repeated_line"
    sent = {**line, "context": {"sent_at": 1, "received_at": START + 2}}
    assert judge(packaged, event("purchase", 0, event_id="3", **sent)) == "repeated_line"
    assert judge(packaged, event("purchase", 1, event_id="4", **line)) == "", "another moment"
    price = {"properties": {"order_id": "o", "price": 2.5}}
    assert judge(packaged, event("purchase", 0, event_id="5", **price)) == "", "another price"
    assert judge(packaged, event("view", 0)) == "", "no order"
    assert judge(packaged, event("view", 0)) == "", "no order"


def test_a_repetition_is_known_for_its_span() -> None:
    text = "- {name: twice, when: {earlier: {same: content, within: 10s}}, action: drop}"
    rules = load_rules(text)
    assert judge(rules, event(at=0)) == ""
    assert judge(rules, event(at=10_000, user_id="other")) == ""
    assert judge(rules, event(at=0)) == "twice"
    assert judge(rules, event(at=10_001, user_id="other")) == ""
    assert judge(rules, event(at=0)) == "", "the newest event is more than ten seconds newer"


def test_clock_skew(packaged: Rules) -> None:
    hour = 3_600_000
    slow = event(at=-hour, context={"sent_at": START - hour + 500})
    result = packaged.clean(slow, received=START + 600)
    assert isinstance(result, Event)
    assert result.timestamp == START + 100, "half a second before it was sent, by our clock"
    fast = event(at=hour)
    assert judge(packaged, fast, received=START) == "ahead_of_its_time"
    assert judge(packaged, fast, received=START + hour - 5 * MINUTE) == ""
    stamped = event(at=hour, context={"received_at": START})
    assert judge(packaged, stamped) == "ahead_of_its_time", "the door's stamp does as well"
    assert judge(packaged, fast) == "", "nothing is known of its receipt"


def test_one_spelling(packaged: Rules) -> None:
    properties = {"category": " shoes ", "currency": "eur"}
    result = packaged.clean(event(properties=properties))
    assert isinstance(result, Event)
    assert result.properties == {"category": "shoes", "currency": "EUR"}
    assert properties == {"category": " shoes ", "currency": "eur"}, "the event itself is untouched"


@pytest.mark.parametrize(
    ("field", "step", "before", "after"),
    [
        ("properties.a", "strip", " x ", "x"),
        ("properties.a", "strip", "  ", None),
        ("properties.a", "squeeze", " a \t b ", "a b"),
        ("properties.a", "upper", "straße", "STRASSE"),
        ("properties.a", "number", " -12.50 ", -12.5),
        ("properties.a", "number", "12", 12),
        ("properties.a", "number", "1e5", "1e5"),
        ("properties.a", "number", "nan", "nan"),
        ("properties.a", "number", "9" * 30, "9" * 30),
        ("properties.a", "text", 12, "12"),
        ("properties.a", "absolute", True, True),
        ("properties.a", "{clamp: [0, 10]}", 11, 10),
        ("properties.a", "{clamp: [0, 10]}", -0.5, 0),
        ("properties.a", "{times: 1e99}", 1e300, 1e300),
        ("properties.a", "{round: 1}", 2.25, 2.2),
        ("properties.a", "{default: 3}", None, 3),
        ("properties.a", "{set: true}", None, True),
        ("properties.a", "{set: 'true'}", None, "true"),
        ("properties.a", "remove", [1, 2], None),
        ("properties.a", "{map: {a: b}}", "a", "b"),
        ("properties.a", "{map: {a: b}}", "A", "A"),
        ("properties.a", "[lower, {map: {a: b}}]", "A", "b"),
        ("context.a", "lower", "X", "x"),
        ("item_id", "[strip, upper]", " x ", "X"),
        ("item_id", "strip", " ", None),
        ("item_id", "{map: {x: y}}", "x", "y"),
        ("session_id", "{default: none}", None, "none"),
        ("timestamp", "{at_least: '2023-11-15'}", START, 1_700_006_400_000),
    ],
)
def test_steps(field: str, step: str, before: Any, after: Any) -> None:
    rules = load_rules(f"- {{name: a, normalise: {{{field}: {step}}}}}")
    mapping, _, part = field.rpartition(".")
    given_ = {mapping: {part: before}} if mapping else {field: before}
    if field == "timestamp":
        given_ = {}
    one = event(**given_)
    result = rules.clean(one)
    assert isinstance(result, Event)
    got = getattr(result, mapping).get(part) if mapping else getattr(result, field)
    assert got == after
    assert type(got) is type(after)
    assert (result is one) == (before == after and type(before) is type(after))


def test_renaming_and_currencies() -> None:
    rules = load_rules("""
- {name: names, normalise: {properties.colour: {rename: properties.color}}}
- name: euro
  normalise:
    properties.price:
      convert: {currency: properties.currency, to: EUR, rates: {USD: 0.5, GBP: 1.25}}
- {name: unknown, unless: {properties.currency: [EUR]}, event: purchase, action: dead_letter}
""")

    def cleaned(**properties: Any) -> Any:
        result = rules.clean(event("purchase", properties=properties))
        return result.rule if isinstance(result, Dropped) else result.properties

    converted = {"price": 1.5, "currency": "EUR", "color": "red"}
    assert cleaned(price=3, currency="USD", colour="red") == converted
    kept = {"currency": "EUR", "color": "blue"}
    assert cleaned(currency="EUR", colour="red", color="blue") == kept
    assert cleaned(price=3, currency="EUR") == {"price": 3, "currency": "EUR"}
    assert cleaned(price=3, currency="CHF") == "unknown"
    assert cleaned(price="3", currency="USD") == "unknown", "no amount, so not converted"


def test_a_normalised_item_is_looked_up_again() -> None:
    rules = load_rules("""
- {name: spelling, normalise: {item_id: upper}}
- {name: gone, when: {item.available: false}, action: drop}
""")
    items = {"A": Item(item_id="A", timestamp=START, available=False)}
    assert judge(rules, event(item_id="a"), items=items) == "gone"
    assert judge(rules, event(item_id="b"), items=items) == "changed"


def test_a_report_counts_each_rule() -> None:
    rules = load_rules("""
- {name: tests, when: {context.test: true}, action: drop}
- {name: lower, normalise: {properties.a: lower}}
- {name: bad, when: {properties.a: b}, action: dead_letter, reason: because}
""")
    verdicts = [
        rules.clean(event(context={"test": True})),
        rules.clean(event(properties={"a": "B"})),
        rules.clean(event(properties={"a": "A"})),
        rules.clean(event()),
    ]
    assert verdicts[0] == Dropped("tests", "context.test is true", "drop")
    assert verdicts[1] == Dropped("bad", "because", "dead_letter")
    report = rules.report()
    assert (report.events, report.clean, report.changed) == (4, 2, 1)
    assert (report.dropped, report.dead_lettered) == (1, 1)
    assert report.by_rule == {"tests": 1, "lower": 2, "bad": 1}


@given(st.data())
@settings(max_examples=110, deadline=None)
def test_clean_events_pass_unchanged(data: st.DataObject) -> None:
    """Packaged rules pass the events of a correct shop unchanged."""
    rules = load_rules(PACKAGED)
    text = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=12)
    context: st.SearchStrategy[Any] = st.fixed_dictionaries(
        {}, optional={"user_agent": st.just(CHROME), "page": text, "locale": text}
    )
    properties: st.SearchStrategy[Any] = st.fixed_dictionaries(
        {},
        optional={
            "price": st.floats(0, 1e6) | st.integers(0, 10**6),
            "quantity": st.integers(0, 100_000),
            "category": text,
            "currency": st.sampled_from(["EUR", "USD"]),
            "dwell_ms": st.integers(0, 10**7),
            "order_id": text,
        },
    )
    for number in range(data.draw(st.integers(1, 15))):
        one = Event(
            event_id=str(number),
            type=data.draw(st.sampled_from(["view", "click", "search", "add_to_cart", "purchase"])),
            timestamp=START + number,
            user_id="u" + data.draw(text),
            session_id=data.draw(st.none() | text),
            item_id=data.draw(st.none() | text),
            properties=data.draw(properties),
            context=data.draw(context),
        )
        assert rules.clean(one, received=one.timestamp + 50) is one


def test_expiring_map_is_bounded_and_deletes_the_oldest() -> None:
    rng = random.Random(3)
    memory, model = ExpiringMap(5), dict[int, int]()
    stored: dict[str, bytes] = {}
    for step in range(3000):
        key, now = rng.randrange(12), step
        until = now + rng.choice([2, 10_000])
        memory.put(digest(key), (until,), now)
        model.pop(key, None)
        model[key] = until
        for _ in range(2):
            oldest = next(iter(model))
            if model[oldest] >= now and len(model) <= 5:
                break
            del model[oldest]
        assert len(memory) == len(model) <= 5
        for other in range(12):
            known = memory.get(digest(other), now)
            alive = other in model and model[other] >= now
            assert (known is not None) == alive
        if rng.random() < 0.3:
            for place, blob in memory.pack_changes().items():
                stored.pop(place, None)
                if blob is not None:
                    stored[place] = blob
            memory = ExpiringMap(5)
            memory.restore(rng.sample(list(stored.items()), len(stored)))


def test_a_bounded_rule_deletes_its_oldest_key() -> None:
    rules = load_rules("""
- name: twice
  when: {earlier: {same: user_id, within: 1d, most: 2}}
  action: drop
""")
    assert [judge(rules, event(user_id=user)) for user in "abca"] == ["", "", "", ""]
    assert judge(rules, event(user_id="c")) == "twice"


def test_damaged_state_is_refused_and_foreign_state_ignored() -> None:
    text = "- {name: twice, when: {earlier: {same: user_id, within: 1d}}, action: drop}"
    rules = load_rules(text)
    rules.clean(event())
    stored = rules.pack_changes()
    assert rules.pack_changes() == {}, "nothing new"
    kept = {key: blob for key, blob in stored.items() if blob is not None}
    damaged = {key: blob[:-1] for key, blob in kept.items()}
    with pytest.raises(StateError, match="state of the rules is damaged"):
        load_rules(text).restore(damaged.items())
    other = load_rules(text.replace("1d", "2d"))
    other.restore(kept.items())
    assert judge(other, event()) == "", "a changed condition begins anew"
    same = load_rules(text)
    same.restore(kept.items())
    assert judge(same, event()) == "twice"


def test_rule_state_commits_with_the_engine() -> None:
    """Killed between commits, the engine cleans the same events the same way again."""
    refunds = "- {name: n, entity: user, event: refund, aggregate: count, window: {size: 365d}}"
    definitions = load_definitions(refunds)
    text = """
- name: refund_without_order
  event: refund
  unless: {earlier: {event: purchase, same: [subject, item_id], within: 90d}}
  action: dead_letter
- {name: fast, when: {rate: {by: user_id, above: 6, within: 1h}}, action: drop}
"""
    rng = random.Random(5)
    log = [
        encode_entry(
            event(
                rng.choice(["purchase", "refund", "view"]),
                number * 200_000,
                event_id=str(number),
                user_id=rng.choice("abc"),
                item_id=rng.choice("xy"),
            )
        )
        for number in range(300)
    ]
    records = list(enumerate(log))

    def read(engine: Engine) -> Mapping[str, Any]:
        return {user: engine.read("user", user, START + 300 * 200_000) for user in "abc"}

    whole = Engine(definitions, MemoryState(), EngineOptions(cleaner=load_rules(text)))
    whole.apply(records)
    expected = read(whole)
    assert 0 < sum(values["n"] for values in expected.values()) < 100
    store = MemoryState()
    for _ in range(40):
        engine = Engine(definitions, store, EngineOptions(cleaner=load_rules(text)))
        at = engine.offset
        engine.apply(records[at : at + rng.randrange(1, 20)])
        engine.commit()
        engine.apply(records[engine.offset : engine.offset + rng.randrange(20)])  # then killed
    engine = Engine(definitions, store, EngineOptions(cleaner=load_rules(text)))
    engine.apply(records[engine.offset :])
    assert read(engine) == expected


GOOD = "- {name: a, when: {properties.price: {below: 0}}, action: drop}\n"

MISTAKES = """
normalise: {} => nothing to normalise
when: {}, action: drop => when: there is no condition
event: view => either action: drop
event: view, action: drop, normalise: {item_id: strip} => either action
action: drop => would drop every event
event: view, action: delete => action: 'delete' is not one of drop, dead_
evnt: view, action: drop => 'evnt' is no key of a rule; it has name, event
evnt: view, action: drop => did you mean 'event'?
event: look, action: drop => event: 'look' is not one of add_to_cart
event: [view, view], action: drop => event: 'view' is listed twice
event: [], action: drop => event: the list is empty
when: [], action: drop => when: 1 to 100 alternatives
when: view, action: drop => when: a condition is written as keys
event: view, when: {type: click}, action: drop => about view only
when: {item_id: x}, unless: [{item_id: x}], action: drop => unless: this holds whenever the rule
"""
MISTAKEN_CONDITIONS = """
price: 3 => when: 'price' is no field of an event
propertys.price: 3 => did you mean 'properties.price'
usr_id: x => did you mean 'user_id'?
properties.: x => 'properties.' is no field
properties.a: {} => properties.a: there is no test
properties.a: {over: 3} => 'over' is no key of a test
properties.a: {above: x} => above: 'x' is not a number
properties.a: {above: .inf} => is not a number
properties.a: {missing: maybe} => one of true, false
properties.a: {kind: date} => one of text, number
user_id: {kind: text} => always of the same kind
user_id: {above: 3} => user_id is no number
age: {below: 5} => age: below: '5' is no duration
timestamp: {below: soon} => neither epoch milli
item.price: cheap => item.price: 'cheap' is not a num
item.available: 3 => write true or false
type: look => type: 'look' is not one of
properties.a: {above: {of: user_id}} => no number
properties.a: {above: {of: properties.a}} => another
user_agent: robot => user_agent: 'robot' is not one of
user_id: {matches: '('} => no regular expression of RE2
user_id: {matches: ''} => would match everything
user_id: {matches: '(?=a)b'} => matches: '(?=a)b': no
user_id: {starts: ''} => starts with nothing
rate: {by: user_id} => rate: above is missing
rate: {by: usr, above: 1, within: 1m} => no field
rate: {by: user_id, above: 0, within: 1m} => rate: above: '0' is not a whole number from 1
rate: {by: user_id, above: 1, within: 0m} => rate: within: '0m' is no duration above zero
earlier: {same: [content, user_id], within: 1m} => earlier: same: content is all fields
earlier: {same: user_id, within: 1m, most: 0} => earlier: most: '0'
properties.a: {above: 5, below: 5} => no event can meet
properties.a: {above: 5, equals: 5} => the other tests
properties.a: {missing: true, above: 1} => no value
properties.a: {kind: text, above: 1} => than a text
properties.a: {starts: x, above: 1} => as text
"""
MISTAKEN_STEPS = """
user_id: lower => user_id cannot be changed
item.price: absolute => item.price cannot be changed
properties.a: [] => properties.a: the list is empty
properties.a: lowr => did you mean 'lower'?
properties.a: {lower: 1} => 'lower' is no key of a step
properties.a: {set: 1, round: 1} => a step has one key
timestamp: lower => lower does not suit timestamp
item_id: absolute => absolute does not suit item_id
properties.a: {clamp: [3, 1]} => the lower one first
properties.a: {clamp: 3} => [lowest, highest]
properties.category: {set: 3} => a category is text
properties.a: {rename: context.a} => part of the same mapping
properties.a: {correct_clock: context.t} => does not suit
timestamp: {correct_clock: properties.t} => in context.<name>
properties.a: {convert: {currency: properties.c, to: EUR}} => convert: rates are missing
properties.a: {convert: {currency: properties.c, to: EUR, rates: {X: 0}}} => X needs a rate above 0
"""


def rows(table: str, form: str) -> list[tuple[str, str]]:
    """Rules of the given form with a part of each line, and the words of its error."""
    lines = [line.split(" => ") for line in table.strip().splitlines()]
    return [(form % part, words) for part, words in lines]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("- [1]", "a rule is written as keys and values"),
        ("- {", "not YAML"),
        ("- {name: B, action: drop}", "name: 'B' is not snake_case"),
        ("- {name: a, event: view, action: drop}", "name: 'a' is taken by the rule of line 1"),
        ("- {name: unreadable, event: view, action: drop}", "reserved for records"),
        ("- {event: view, action: drop}", "name is missing"),
        *rows(MISTAKES, "- {name: b, %s}"),
        *rows(MISTAKEN_CONDITIONS, "- {name: b, when: {%s}, action: drop}"),
        *rows(MISTAKEN_STEPS, "- {name: b, normalise: {%s}}"),
    ],
)
def test_mistakes_are_named_with_their_line(rule: str, words: str) -> None:
    with pytest.raises(RuleError) as caught:
        load_rules(GOOD + "# a comment\n" + rule)
    assert str(caught.value).startswith("rules:3: ")
    assert words in str(caught.value)


def test_an_error_names_the_line() -> None:
    text = "- name: a\n  action: drop\n  when:\n    properties.price:\n      below: zero"
    with pytest.raises(RuleError, match=r"^rules:5: when: properties\.price: below: 'zero' is not"):
        load_rules(text)
    text = (
        "- name: a\n  when:\n    item_id: x\n    properties.p: {above: 2, below: 1}\n  action: drop"
    )
    with pytest.raises(RuleError, match=r"^rules:4: when: properties\.p: no event can meet this"):
        load_rules(text)


def test_an_unreachable_rule_is_refused() -> None:
    text = """
- {name: a, event: [view, click], action: drop}
- {name: b, event: view, normalise: {item_id: strip}}
"""
    with pytest.raises(RuleError, match="rules:3: no event reaches this rule: 'a' of line 2"):
        load_rules(text)


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(GOOD)
    assert load_rules(file).rules == load_rules(GOOD).rules
    file.write_text(GOOD.replace("below", "blow"))
    with pytest.raises(RuleError, match=r"rules\.yaml:1: when: properties\.price: 'blow'"):
        load_rules(file)
    with pytest.raises(RuleError, match="cannot be read"):
        load_rules(tmp_path / "absent.yaml")
    assert load_rules("# none\n").rules == ()


def test_fingerprint_ignores_formatting() -> None:
    spread = "\n# first\n- name: a\n  when: {properties.price: {below: 0}}\n  action: drop"
    assert load_rules(GOOD).fingerprint == load_rules(spread).fingerprint
    assert load_rules(GOOD).fingerprint != load_rules(GOOD.replace("0", "1")).fingerprint


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        load_rules(text)
    except RuleError as error:
        assert str(error).startswith("rules:")


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(?=a)b", "look-ahead.* is not supported"),
        ("(?!a)b", "look-ahead.* is not supported"),
        ("(?<!a)b", "look-behind.* is not supported"),
        (r"(a)\1", "back-reference.* is not supported"),
        ("(?P<a>x)(?P=a)", "back-reference.* is not supported"),
        ("a*+b", "possessive.* is not supported"),
        ("(?>a)b", "atomic group.* is not supported"),
        ("(a)?(?(1)b)", "conditional group.* is not supported"),
        ("(a{1,100}){1,100}b", "too large"),
        ("a{1001}", "too large"),
        (r"\pL{200}", "over 1 MiB of memory"),
        ("a" * 1025, "longer than 1024 characters"),
        (r"a\Z", "invalid escape sequence"),
        ("[b-a]", "invalid character class range"),
    ],
)
def test_backtracking_large_and_foreign_patterns_are_refused(pattern: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        compile_safely(pattern)


ADMITTED = r"""
bot|crawl|spider ^(?:test|qa)[-_.@] test[0-9]+@example\.com$ ^/admin/.* Chrome/\d+\.\d+
\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3} ^(\d+,)+x (?i)^qa-.*$ ^.*foo.*bar (a|ab)*c (a+)+b
(?i)(aA?|Aa?)+b .*.*=.* (a?){30}a{30} (?m)^.*a.*b
"""


def test_admitted_patterns_are_fast_on_hostile_texts() -> None:
    """RE2 matches as Python's engine where that ends, and ends on all patterns."""
    for pattern in ADMITTED.split():
        compile_safely(pattern)
    rng = random.Random(11)
    pieces = ["a", "b", "[ab]", ".", r"\w", "(a|b)", "(a|ab)", "(ab?)", "(b*)", "(a+b)"]
    repeats = ["", "", "*", "+", "?", "{2,9}", "*?"]
    for _ in range(1500):
        parts = [rng.choice(pieces) + rng.choice(repeats) for _ in range(rng.randint(1, 4))]
        pattern = rng.choice(["", "^"]) + "".join(parts) + rng.choice(["", "$", "c"])
        if rng.random() < 0.3:
            pattern = f"({pattern.strip('^')}){rng.choice(['*', '+', '{3}'])}c"
        compiled = compile_safely(pattern)
        for text in ("a", "b", "ab", "aab", "abb"):
            compiled.search(((text * TEXT_LIMIT)[: TEXT_LIMIT - 1] + "!").encode())
            short = (text * 6)[:6] + rng.choice(["", "!", "c"])
            expected = re.search(pattern, short) is not None
            assert (compiled.search(short.encode()) is not None) == expected, (pattern, short)


@pytest.mark.parametrize(
    ("condition", "across"),
    [
        ("earlier: {same: properties.order_id, within: 1d}", True),
        ("earlier: {same: [item_id, device_id], within: 1d}", True),
        ("earlier: {same: [subject, properties.order_id], within: 1d}", False),
        ("earlier: {same: content, within: 1d}", False),
        ("rate: {by: session_id, above: 1, within: 1m}", True),
        ("rate: {by: user_id, above: 1, within: 1m}", False),
    ],
)
def test_rules_that_look_across_users(condition: str, across: bool) -> None:
    plain = "- {name: free, when: {properties.price: {at_most: 0}}, action: drop}\n"
    for clause in ("when", "unless"):
        rules = load_rules(
            f"{plain}- {{name: a, event: view, {clause}: {{{condition}}}, action: drop}}"
        )
        assert [rule.looks_across_users for rule in rules.rules] == [False, across]
        left = rules.without_memory()
        assert left is not None
        assert [rule.name for rule in left.rules] == ["free"]
    assert load_rules(plain).without_memory() is None
    packaged = load_rules(PACKAGED)
    assert not any(rule.looks_across_users for rule in packaged.rules)


def test_long_texts_are_searched_in_part() -> None:
    rules = load_rules("- {name: a, when: {properties.t: {matches: 'x$'}}, action: drop}")
    assert judge(rules, event(properties={"t": "y" * (TEXT_LIMIT - 1) + "x"})) == "a"
    assert judge(rules, event(properties={"t": "y" * TEXT_LIMIT + "x"})) == ""
    assert judge(rules, event(properties={"t": "\ud800x"})) == "a", "no UTF-8"


def test_classes_of_user_agents() -> None:
    assert classify("Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)") == "preview"
    assert classify("UptimeRobot/2.0") == "monitor"
    assert classify("Scrapy/2.11 (+https://scrapy.org)") == "automation"
    assert classify("AhrefsBot/7.0") == "crawler"
    assert classify("NobodyKnowsThisBot/1.0 (+https://nobody.example/bot)") == "crawler"
    assert classify("\ud800") is None
    assert classify(CHROME) is None
