"""Endpoints of cleaning: rules with counts, dead letters, redrive."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from tactful.cleaning.redrive import as_sent, redrive
from tactful.errors import DatasetError
from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import LogPageQuery, caller_of, cursor_number, stored
from tactful.schemas.data.dead_letters import (
    DeadLetterInfo,
    DeadLetterPage,
    NewRedrive,
    Redriven,
    RuleCounts,
    RulesInfo,
)
from tactful.schemas.ingestion import EventsAccepted
from tactful.schemas.problems import ProblemError
from tactful.schemas.users import EVERYBODY
from tactful_streaming.contract.log_entries import Event, Restricted
from tactful_streaming.log.dead_letters import DeadLetter

if TYPE_CHECKING:
    from tactful.server.platform import Platform

_UNREADABLE = "dead letters cannot be read now"
_PROGRESS = "redriven.json"
_IDS = ("user_id", "device_id", "session_id")
_new_redrive = msgspec.json.Decoder(NewRedrive)


class LettersQuery(LogPageQuery):
    """One page of dead letters, of one rule or reason."""

    rule: Annotated[str, Meta(max_length=128)] = ""
    reason: Annotated[str, Meta(max_length=512)] = ""


def hashed(event: dict[str, Any], secret: bytes) -> dict[str, Any]:
    """Return an event with user, device and session as keyed hashes."""
    names = {
        name: hashlib.blake2b(str(event[name]).encode(), key=secret, digest_size=8).hexdigest()
        for name in _IDS
        if event.get(name)
    }
    return {**event, **names}


async def _get_letters(platform: Platform, call: Call) -> Reply:
    query, by = call.query(LettersQuery), caller_of(call)
    start = cursor_number(query.cursor) or 0

    def read() -> DeadLetterPage:
        platform.accesses.record(EVERYBODY, "letters", by=by)
        rules, kept = [query.rule] if query.rule else None, platform.backend.dead_letters
        found = (
            (position, letter)
            for position, letter in kept.read(min(start, kept.end), rules)
            if query.reason in ("", letter.reason)
        )
        page = [*islice(found, query.limit)]
        following = next(found, None)
        return DeadLetterPage(
            letters=[_info(position, letter, platform.hash_secret) for position, letter in page],
            next_cursor=None if following is None else str(following[0]),
        )

    return json_reply(await stored(read, _UNREADABLE))


def _info(position: int, letter: DeadLetter, secret: bytes) -> DeadLetterInfo:
    entry = letter.entry()
    event = entry.event if isinstance(entry, Restricted) else entry
    return DeadLetterInfo(
        position=position,
        rule=letter.rule,
        reason=letter.reason,
        partition=letter.partition,
        offset=letter.offset,
        received=letter.received,
        event=hashed(as_sent(event), secret) if isinstance(event, Event) else None,
    )


async def _get_rules(platform: Platform, call: Call) -> Reply:
    backend = platform.backend

    def read() -> RulesInfo:
        kept, reasons = Counter[str](), dict[str, str]()
        for _, letter in backend.dead_letters.read():
            kept[letter.rule] += 1
            reasons[letter.rule] = letter.reason
        counts = [*_counts(platform, kept)]
        named = {count.rule for count in counts}
        for rule in sorted(kept.keys() - named):
            reason, letters = reasons[rule], kept[rule]
            counts.append(
                RuleCounts(rule=rule, action="dead_letter", reason=reason, letters=letters)
            )
        report = None if backend.rules is None else backend.rules.report()
        totals = ("events", "clean", "changed", "dropped", "dead_lettered")
        return RulesInfo(rules=counts, **{name: getattr(report, name, 0) for name in totals})

    return json_reply(await stored(read, _UNREADABLE))


def _counts(platform: Platform, kept: Counter[str]) -> Iterator[RuleCounts]:
    if (rules := platform.backend.rules) is None:
        return
    by_rule = rules.report().by_rule
    for rule in rules.rules:
        yield RuleCounts(
            rule=rule.name,
            action=rule.action,
            reason=rule.reason,
            line=rule.line,
            events=by_rule[rule.name],
            letters=kept[rule.name],
        )


class _Ingestion:
    """Sends events to the ingestion of this process, from another thread than its loop."""

    def __init__(self, platform: Platform, loop: asyncio.AbstractEventLoop) -> None:
        self._ingest, self._loop = platform.ingest, loop

    def send_lines(self, kind: str, lines: bytes, /) -> EventsAccepted:
        work = self._ingest.events(lines, "application/x-ndjson")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _post_redrive(platform: Platform, call: Call) -> Reply:
    request = await call.json(_new_redrive)
    letters, sender = (
        platform.backend.dead_letters,
        _Ingestion(platform, asyncio.get_running_loop()),
    )
    path = platform.settings.storage.data / "dead-letters" / _PROGRESS

    by = caller_of(call)

    def send() -> Redriven:
        rules = request.rules or sorted({letter.rule for _, letter in letters.read()})
        platform.audit.record_change(by, "letters.redrive", ", ".join(rules))
        restart, most = request.restart, request.most
        return redrive(sender, letters, path, rules, restart=restart, most=most)

    try:
        async with platform.redriving:
            return json_reply(await stored(send, _UNREADABLE))
    except DatasetError as error:
        raise ProblemError("invalid", str(error)) from None


DEAD_LETTER_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        "/v1/rules",
        "Count what the cleaning rules do",
        _get_rules,
        details="Exact counts since the start of the server, so it needs the scope `admin`.",
        scope="admin",
        answer=RulesInfo,
        problems=("not_ready",),
    ),
    Endpoint(
        "GET",
        "/v1/dead-letters",
        "List the dead letters",
        _get_letters,
        details=(
            "Oldest first, of one `rule` or `reason` if it is named. Users, devices and sessions "
            "are keyed hashes; the look is noted in the trail of accesses."
        ),
        scope="admin",
        query=LettersQuery,
        answer=DeadLetterPage,
        problems=("not_ready",),
    ),
    Endpoint(
        "POST",
        "/v1/dead-letters/redrive",
        "Send dead letters again",
        _post_redrive,
        details=(
            "Through ingestion, as if their senders sent them again: after a change of rules they "
            "count. It goes on where the last redrive of a rule ended; while `more` is true, send "
            "it again."
        ),
        scope="admin",
        body=NewRedrive,
        answer=Redriven,
        problems=("invalid", "not_ready", "too_many_events"),
    ),
)
