"""Export of all data of a user, as JSON and as a page.

It uses the search of erasure, so an export holds the data that an erasure removes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import msgspec

from tactful.config.settings import Settings
from tactful.event_log.encryption import open_seal
from tactful.lifecycle.profile import NAME, life_cycle
from tactful.lifecycle.sources import sources_of
from tactful.lifecycle.stored import FittedFile
from tactful.metadata.crossed_profiles import profiles_of
from tactful.metadata.flag_arms import arms_of
from tactful.metadata.store import MetadataStore
from tactful.schemas.elements import NewEvent
from tactful.schemas.users import ConsentDecision, PersonExport
from tactful.subjects.consent import ConsentStore, open_consents
from tactful.subjects.trace_search import Search, SearchResult, find_traces, search_log
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.people.consent import Purpose
from tactful_streaming.contract.log_entries import DEVICE_PREFIX, decode_entry
from tactful_streaming.definitions.model import ENTITIES
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.erasure import stored_entities
from tactful_streaming.errors import StreamingError
from tactful_streaming.log.dead_letters import DeadLetter
from tactful_streaming.log.redaction import matching_records
from tactful_streaming.sinks.webhook import Delivery
from tactful_streaming.state.key_layout import read_meta
from tactful_streaming.state.store import RocksState
from tactful_streaming.windows.entity_table import read_packed

LETTERS = ("dead-letters", "late")
"""Folders of dead letters and of late events in the data directory."""

NOTES = (
    "Counts of items and categories, to which you contributed together with others, name nobody.",
    "Models were learned from many people; they may carry your part until the next training.",
    "Published statistics carry noise, which limits what they reveal about one person.",
)
"""Data that an export does not hold, with the reasons."""


def export_person(
    settings: Settings,
    metadata: MetadataStore,
    person: str,
    *,
    clock: Callable[[], int],
    search: Search | None = None,
) -> PersonExport:
    """Collect all data of a user or ``device:<device_id>``, also beside a running server.

    Without a `search` it reads the log of the data directory. Metadata that cannot be used raise
    StorageError, log or state StreamingError.
    """
    data, now = settings.storage.data, clock()
    with contextlib.ExitStack() as stack:
        if search is None:
            search = stack.enter_context(search_log(settings, clock=clock))
        store = None
        if (data / "state").is_dir():
            store = RocksState(data / "state", read_only=True)
            stack.callback(store.close)
        result = find_traces(search, store, [person])
        records = list(records_in(search, result))
    traces = result.traces
    consents = open_consents(settings, metadata, clock=clock, beside=True)
    features = features_in(settings, result, now)
    described = [record["properties"] for record in records if record["kind"] == "user"]
    return PersonExport(
        person=person,
        made_at=now,
        consent=decisions_in(consents, result),
        description=described[-1] if described else None,
        devices=sorted(traces.devices),
        shared_devices=sorted(traces.shared),
        sessions=sorted(traces.sessions),
        records=records,
        features=dict(_with_life_cycle(features, settings, consents, now)),
        dead_letters=[r for name in LETTERS for r in letters_in(settings, name, result, clock)],
        waiting_actions=list(actions_in(data / "webhooks", result)),
        kept_arms=arms_in(metadata, result),
        crossed_profiles=profiles_in(metadata, result),
        notes=list(NOTES),
    )


def decisions_in(consents: ConsentStore, result: SearchResult) -> list[ConsentDecision]:
    """Return the decisions of users and of their own devices."""
    return [
        ConsentDecision(
            version=decision.version,
            purposes={str(purpose): agrees for purpose, agrees in decision.purposes.items()},
            at=decision.at,
            source=decision.source,
        )
        for key in sorted(
            result.traces.people, key=lambda key: (key.startswith(DEVICE_PREFIX), key)
        )
        for decision in consents.history(key)
    ]


def arms_in(metadata: MetadataStore, result: SearchResult) -> list[dict[str, Any]]:
    """Return the arms that users and their own devices keep in sticky experiments."""
    return [asdict(arm) for arm in arms_of(metadata, result.traces.people)]


def profiles_in(metadata: MetadataStore, result: SearchResult) -> list[dict[str, Any]]:
    """Return the profiles that users and their own devices let cross."""
    return [profile._asdict() for profile in profiles_of(metadata, result.traces.people)]


def records_in(search: Search, result: SearchResult) -> Iterator[dict[str, Any]]:
    """Yield the records of users in a log."""
    for offset, payload in search(result.needles):
        try:
            entry = decode_entry(payload)
        except StreamingError:
            continue
        if result.owns(offset, entry):
            record = msgspec.to_builtins(entry)
            event = record.get("event", record)
            if event["kind"] == "event":  # the log leaves out fields without a value
                for name in NewEvent.__struct_fields__:
                    event.setdefault(name, {} if name in ("properties", "context") else None)
            yield {"offset": offset, **record}


def features_in(
    settings: Settings, result: SearchResult, now: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the features of users and their sessions in the state, at a time.

    Features that a backfill has to compute are left out.
    """
    if not (path := settings.storage.data / "state").is_dir():
        return
    definitions = load_definitions(settings.features)
    with contextlib.closing(RocksState(path, read_only=True)) as store:
        meta = read_meta(store)
        missing = frozenset(() if meta is None else meta.missing)
        computed = {
            entity: [one for one in definitions.of_entity(entity) if one.name not in missing]
            for entity in ENTITIES
        }
        for entity, key, blob in stored_entities(store, result.traces):
            yield f"{entity} {key}", dict(read_packed(computed[entity], blob, now))


def _with_life_cycle(
    stored: Iterable[tuple[str, dict[str, Any]]],
    settings: Settings,
    consents: ConsentStore,
    now: int,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Add the life cycle to the features of users who consent to personalisation."""
    fitted = FittedFile(settings.storage.data).read()
    sources = {feature.name for feature in sources_of(load_definitions(settings.features))}
    for name, features in stored:
        entity, _, key = name.partition(" ")
        if entity == "user" and Purpose.PERSONALISATION in consents.consents.allowed(key):
            usable = {name: value for name, value in features.items() if name in sources}
            known = life_cycle(usable, now, fitted, settings.lifecycle)
            features = {**features, NAME: msgspec.to_builtins(known)}
        yield name, features


def letters_in(
    settings: Settings, name: str, result: SearchResult, clock: Callable[[], int]
) -> Iterator[dict[str, Any]]:
    """Yield the dead letters of users in a folder of the data directory."""
    path, needles = settings.storage.data / name, result.needles
    if not path.is_dir():
        return
    with contextlib.ExitStack() as stack:
        seal = open_seal(settings, clock=clock)
        if seal is not None:
            stack.callback(seal.close)
            needles |= seal.references(result.keys)
        for _, record in matching_records(path, needles):
            letter = msgspec.msgpack.decode(record, type=DeadLetter)
            payload = letter.payload if seal is None else seal.open([letter.payload])[0]
            if result.owns_payload(letter.offset, payload):
                yield {
                    "reason": letter.reason,
                    "rule": letter.rule,
                    "offset": letter.offset,
                    "record": payload.decode("utf-8", "backslashreplace"),
                }


def actions_in(path: Path, result: SearchResult) -> Iterator[dict[str, Any]]:
    """Yield the waiting calls of webhooks that concern users."""
    for directory in sorted(path.glob("*")) if path.is_dir() else ():
        with contextlib.closing(RocksState(directory, read_only=True)) as store:
            for _, value in store.scan(b""):
                try:
                    delivery = msgspec.msgpack.decode(value, type=Delivery)
                except DECODE_ERRORS:  # the position of the queue
                    continue
                if result.owns_delivery(delivery):
                    yield {"action": value.decode("utf-8", "backslashreplace")}


def export_page(export: PersonExport) -> str:
    """Render an export as one HTML page without scripts or external files."""
    document = msgspec.to_builtins(export)
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        "<meta name=robots content=noindex><title>Your data</title><style>",
        "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}",
        "table{border-collapse:collapse;width:100%;font-size:.9rem}",
        "th,td{border-bottom:1px solid #ccc;padding:.3rem .5rem;text-align:left;",
        "vertical-align:top;overflow-wrap:anywhere}</style><h1>Your data</h1>",
        f"<p>All data of <b>{escape(export.person)}</b>.</p>",
    ]
    for title, name in _SECTIONS:
        parts.append(f"<h2>{escape(title)}</h2>{_shown(document[name])}")
    return "".join(parts)


_SECTIONS = (
    ("What you agreed to", "consent"),
    ("How you are described", "description"),
    ("Your devices", "devices"),
    ("Devices you share with others", "shared_devices"),
    ("What is computed of you", "features"),
    ("What you did, and what you were shown", "records"),
    ("Your visits", "sessions"),
    ("What did not count, and why", "dead_letters"),
    ("Messages on their way to you", "waiting_actions"),
    ("Experiments that keep showing you the same", "kept_arms"),
    ("Profiles that you let cross from other domains", "crossed_profiles"),
    ("What is not here", "notes"),
)


def _shown(value: Any) -> str:
    """Render a value as HTML."""
    if value in (None, [], {}):
        return "<p>nothing</p>"
    if isinstance(value, dict):
        rows = "".join(f"<tr><th>{escape(k)}<td>{_cell(v)}" for k, v in value.items())
        return f"<table>{rows}</table>"
    if isinstance(value, list) and isinstance(value[0], dict):
        names = list(dict.fromkeys(name for row in value for name in row))
        head = "".join(f"<th>{escape(name)}" for name in names)
        body = "".join(
            "<tr>" + "".join(f"<td>{_cell(row.get(name))}" for name in names) for row in value
        )
        return f"<table><tr>{head}{body}</table>"
    if isinstance(value, list):
        return "<ul>" + "".join(f"<li>{_cell(element)}" for element in value) + "</ul>"
    return _cell(value)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return escape(text)
