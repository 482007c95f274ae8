"""Named fields lose detail before anything is stored, whichever way they come in."""

from __future__ import annotations

import http.client
import itertools
import json
import logging
import math
import struct
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.platform.support import (
    Live,
    TinyRecommender,
    build,
    logged,
    now_ms,
    small_settings,
    wait_until,
)

from tactful.cleaning.redrive import redrive
from tactful.client import Client
from tactful.config.privacy import ConsentSettings, MinimiseSettings
from tactful.server.platform import Platform
from tactful.subjects.minimise import Minimiser, cell_of, network_of
from tactful_privacy.people.pseudonyms import Keyring
from tactful_streaming.contract.log_entries import Event, Restricted, User
from tactful_streaming.log.dead_letters import DeadLetters

NAMED = MinimiseSettings(
    truncate_ip="properties.ip, context.ip",
    hash="properties.email,context.mail",
    drop="properties.phone, context.agent",
    latitude="properties.lat,context.lat",
    longitude="properties.lon,context.lon",
    postcode="properties.zip,context.zip",
)
FEATURES = """
- {name: views, entity: user, event: view, aggregate: count, window: {size: 1d}}
- {name: mails, entity: user, event: view, aggregate: last_n, of: properties.email, n: 9}
- {name: by_ip, entity: user, event: view, aggregate: count, group_by: properties.ip,
   window: {size: 1d}}
"""
RULES = "- {name: odd, when: {properties.odd: true}, action: dead_letter}\n"
BITS = {4: 24, 6: 48}

tokens = st.text("abcdefghjkmnpqrstuvwxyz", min_size=24, max_size=24)
hosts = st.integers(1, 255)
ipv4 = st.builds("203.{}.{}.{}".format, hosts, hosts, hosts)
ipv6 = st.builds("2001:db8:{:x}:{:x}::{:x}".format, hosts, hosts, st.integers(2**12, 2**16 - 1))
addresses = st.one_of(
    *(ipv4, ipv6, tokens, ipv4.map("::ffff:{}".format), ipv6.map("{}%eth0".format)),
    *(ipv4.map(" {} ".format), ipv4.map("{}:443".format), st.tuples(ipv4, ipv4).map(", ".join)),
)


def degrees(most: int) -> st.SearchStrategy[float]:
    """Numbers of degrees with so many digits that other text does not contain them."""
    return st.integers(-most * 10**8, most * 10**8).map(lambda n: (n * 10 + 1) / 10**9)


places = st.tuples(degrees(89), degrees(179))


@st.composite
def messages(draw: st.DrawFn) -> tuple[dict[str, Any], list[bytes]]:
    """Properties and context with raw values, and the bytes that no file may hold."""
    raw: list[bytes] = []

    def secret(values: st.SearchStrategy[str]) -> Any:
        value = draw(values)
        raw.append(value.strip().encode())
        return value

    fields: dict[str, Any] = {"properties": {"price": 2}, "context": {"page": "home"}}
    for part, names in (("properties", "ip email phone zip"), ("context", "ip mail agent zip")):
        for name in names.split():
            kind = addresses if name == "ip" else tokens
            fields[part][name] = secret(kind)
            if part == "properties" and draw(st.booleans()):
                fields[part][name] = [fields[part][name], secret(kind)]
        for name, value in zip(("lat", "lon"), draw(places), strict=True):
            raw += [repr(value).encode(), struct.pack(">d", value), struct.pack("<d", value)]
            fields[part][name] = value if draw(st.booleans()) else repr(value)
    if draw(st.booleans()):
        del fields["properties"]["lon"]
    return fields, raw


class Site:
    """A server, a client of its own that knows HTTP only, and all raw values that were sent."""

    def __init__(self, live: Live, data: Path) -> None:
        self.live = live
        self.data = data
        self.raw: set[bytes] = set()
        self.number = itertools.count()

    def send(self, method: str, path: str, body: str, kind: str = "application/json") -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.live.port, timeout=60)
        connection.request(method, path, body, {"Content-Type": kind})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        assert answer.status < 300, content
        for value in self.raw:
            assert value not in content
        return json.loads(content)

    def event(self, fields: dict[str, Any]) -> dict[str, Any]:
        """A view with the fields."""
        identity = {"event_id": f"e{next(self.number)}", "user_id": "ada", "item_id": "tea"}
        return {"type": "view", "timestamp": now_ms(), **identity, **fields}

    def files_with(self, values: Collection[bytes]) -> set[str]:
        """Names of files that hold one of the values; after the end of the server.

        To read its databases in its own process would release its locks on them.
        """
        files = [path for path in self.data.rglob("*") if path.is_file()]
        contents = {path.relative_to(self.data).as_posix(): path.read_bytes() for path in files}
        return {name for name, text in contents.items() if any(value in text for value in values)}

    def stored(self) -> Iterator[Event | User]:
        """Events and users in the log and in dead letters."""
        for entry in logged(self.data):
            if isinstance(entry, Event | User | Restricted):
                yield entry.event if isinstance(entry, Restricted) else entry
        with closing(DeadLetters.open(self.data / "dead-letters", read_only=True)) as letters:
            for _, letter in letters.read(0):
                kept = letter.entry()
                assert isinstance(kept, Event)
                yield kept


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site whose settings name fields, with rules, late events and text in features."""
    small = small_settings(tmp_path)
    small.engine.features.write_text(FEATURES)
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    engine = replace(small.engine, rules=rules, keep_late=True)
    with Live(Platform.open(replace(small, engine=engine, minimise=NAMED), build)) as live:
        yield Site(live, small.storage.data)


WAYS = ("object", "array", "ndjson", "users", "odd", "late", "measured", "recommend", "batch")


def test_no_raw_value_is_stored(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """No byte of a named field of any message in any way in is in any file of the installation."""
    caplog.set_level(logging.DEBUG)
    contexts: list[dict[str, Any]] = []
    recommend = TinyRecommender.recommend

    def noted(self: TinyRecommender, request: Any, *, now: int) -> Any:
        contexts.append(dict(request.context))
        return recommend(self, request, now=now)

    def send(message: tuple[dict[str, Any], list[bytes]], way: str) -> None:
        fields, raw = message
        site.raw.update(raw)
        event = site.event(fields)
        if way == "users":
            user = {"user_id": "ada", "properties": fields["properties"]}
            answer = site.send("PUT", "/v1/users", json.dumps([user]))
        elif way in ("recommend", "batch"):
            request = {"user_id": "ada", "context": fields["context"]}
            path, body = "/v1/recommend", request
            if way == "batch":
                path, body = "/v1/recommend/batch", {"requests": [request]}
            site.send("POST", path, json.dumps(body))
            return
        elif way == "ndjson":
            lines = "\n".join(
                map(json.dumps, [event, {**event, "timestamp": 1}, site.event(fields)])
            )
            answer = site.send("POST", "/v1/events", lines, "application/x-ndjson")
        else:
            event["properties"]["odd"] = way == "odd"
            if way == "late":
                event["timestamp"] -= 30 * 86_400_000
            if way == "measured":
                event["context"]["consent"] = "measurement"
            elements = event if way == "object" else [event]
            answer = site.send("POST", "/v1/events", json.dumps(elements))
        assert answer["accepted"] == (2 if way == "ndjson" else 1)

    with mock.patch.object(TinyRecommender, "recommend", noted):
        for way in WAYS:
            examples = settings(max_examples=6, deadline=None, database=None)
            examples(given(messages(), st.just(way))(send))()
    export = site.send("GET", "/v1/users/ada/export", "")
    assert any("email" in record["properties"] for record in export["records"])
    site.live.stop()
    assert site.files_with(site.raw) == set()
    assert not [value for value in site.raw if value.decode("latin-1") in caplog.text]
    kinds = Minimiser(NAMED, lambda: Keyring(site.data / "keyring.json", clock=now_ms))
    stored = [*site.stored()]
    assert len(stored) > 8 * len(WAYS) // 2
    for entry in stored:
        assert kinds(entry) == entry, "what is stored has nothing left to remove"
        assert "phone" not in entry.properties
    for context in contexts:
        assert "agent" not in context
        assert len(context["zip"]) == 2
        assert cell_of(context["lat"], context["lon"], 10) == (context["lat"], context["lon"])


@pytest.mark.slow
@mock.patch("tactful.server.background._ERASE_S", 0.2)
def test_measured_events_are_minimised(tmp_path: Path) -> None:
    """An event that may only be counted is stored without detail, too, and erased by its user."""
    closed = replace(small_settings(tmp_path), consent=ConsentSettings(default="deny"))
    with Live(Platform.open(replace(closed, minimise=NAMED), build)) as live:
        site = Site(live, closed.storage.data)
        site.raw |= {b"ada@example.com", b"203.0.113.77"}
        fields = {
            "properties": {"email": "ada@example.com", "ip": "203.0.113.77"},
            "context": {"consent": "measurement", "ip": "203.0.113.77"},
        }
        site.send("POST", "/v1/events", json.dumps(site.event(fields)))
        (record,) = site.send("GET", "/v1/users/ada/export", "")["records"]
        digest = record["event"]["properties"]["email"].encode()
        receipt = site.send("DELETE", "/v1/users/ada", "")["receipt"]
        path = f"/v1/erasures/{receipt}"
        wait_until(lambda: bool(site.send("GET", path, "")["state"] == "done"))
    assert site.files_with({*site.raw, digest, b"203.0.113"}) == set()


def test_a_redriven_hash_stays(site: Site) -> None:
    """A dead letter that is sent again keeps its hash: hashed twice, nothing would match it."""
    fields = {"properties": {"email": "ada@example.com", "odd": True}}
    site.send("POST", "/v1/events", json.dumps(site.event(fields)))
    letters = site.data / "dead-letters"

    def kept() -> list[Any]:
        with closing(DeadLetters.open(letters, read_only=True)) as opened:
            return [letter.entry() for _, letter in opened.read(0)]

    wait_until(lambda: letters.exists() and len(kept()) == 1)
    (first,) = kept()
    with (
        closing(DeadLetters.open(letters, read_only=True)) as opened,
        Client(site.live.url) as client,
    ):
        redrive(client, opened, site.data.parent / "progress", ["odd"])
    fields["properties"]["odd"] = False
    site.send("POST", "/v1/events", json.dumps(site.event(fields)))
    site.live.stop()
    hashes = {entry.properties["email"] for entry in site.stored()}
    assert hashes == {first.properties["email"]}


def test_nothing_is_named_by_default(tmp_path: Path) -> None:
    with Live(Platform.open(small_settings(tmp_path), build)) as live:
        assert live.platform.minimise is None


def minimiser(tmp_path: Path) -> Minimiser:
    return Minimiser(NAMED, lambda: Keyring(tmp_path / "keyring.json", clock=now_ms))


def test_a_hash_needs_the_key(tmp_path: Path) -> None:
    """Hashes match within a key, in every field and process; another key gives others."""

    def digest(by: Minimiser, value: Any, name: str = "email") -> Any:
        user = User(user_id="u", timestamp=0, properties={name: value})
        return by(user).properties[name]

    own = minimiser(tmp_path)
    first = digest(own, "ada@example.com")
    assert digest(minimiser(tmp_path), "ada@example.com") == first
    assert digest(own, "7") == digest(own, 7) != first
    assert digest(own, first) == first
    forged = [first[:-1] + ("A" if first[-1] != "A" else "B"), first + "=", " " + first, "A" * 32]
    assert not set(map(digest, itertools.repeat(own), forged)) & {*forged, first}
    assert digest(minimiser(tmp_path / "other"), "ada@example.com") != first
    Keyring(tmp_path / "keyring.json", clock=now_ms).rotate()
    assert digest(own, "ada@example.com") != first, "the running process follows a rotation"
    assert digest(own, first) == first, "hashes under earlier keys stay"


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("203.0.113.77", "203.0.113.0"),
        (" 203.0.113.77\n", "203.0.113.0"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
        ("fe80::1%203.0.113.77", "fe80::"),
        ("::ffff:203.0.113.77", "203.0.113.0"),
        ("::FFFF:cb00:714d", "203.0.113.0"),
        ("2002:cb00:714d::1", "2002:cb00:7100::"),
        ("64:ff9b::203.0.113.77", "64:ff9b::"),
        ("::203.0.113.77", "::"),
        *((other, None) for other in ("203.0.113.77:80", "[2001:db8::1]", "203.0.113.077", "x")),
        *((other, None) for other in ("203.0.113.77, 10.0.0.1", "", 3405803853, True, 1.5, None)),
    ],
)
def test_addresses(sent: Any, stored: str | None) -> None:
    assert network_of(sent, BITS) == stored


@given(places, st.floats(1, 20_000))
def test_cells(place: tuple[float, float], size: float) -> None:
    """A place shares its centre with a cell around it, at least `size` wide and high."""
    centre = cell_of(*place, size)
    assert centre is not None
    assert cell_of(*centre, size) == centre
    # A step of less than half a cell from the centre stays inside.
    step = 0.49 * size / 111.195
    if abs(centre[0]) + step < 90:
        assert cell_of(centre[0] + step, centre[1], size) == centre
        assert cell_of(centre[0] - step, centre[1], size) == centre
    aside = step / max(math.cos(math.radians(centre[0])), 1e-9)
    if aside < 90 and abs(centre[1]) + aside < 180:
        assert cell_of(centre[0], centre[1] + aside, size) == centre
        assert cell_of(centre[0], centre[1] - aside, size) == centre


@pytest.mark.parametrize(
    "place", [(91, 0), (0, 361), (math.nan, 0), (0, math.inf), (None, 1), (1, None)]
)
def test_no_cell(place: tuple[float | None, float | None]) -> None:
    assert cell_of(*place, 10) is None
