"""Send dead letters again, corrected by rules; an interrupted run resumes.

The progress of each rule is kept beside the letters after every acknowledged batch. After a crash
at most one batch is sent twice; events keep their ``event_id``, so they count once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from tactful.errors import DatasetError
from tactful.schemas.data.dead_letters import Redriven, RefusedLetter
from tactful.schemas.ingestion import EventsAccepted
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import replace_file
from tactful_streaming.contract.log_entries import Event, Item
from tactful_streaming.log.dead_letters import DeadLetters
from tactful_streaming.rules.rules import Dropped, Rules

_BATCH = 500
_MOST_REFUSALS = 100
_cursors: msgspec.json.Decoder[dict[str, int]] = msgspec.json.Decoder(dict[str, int])


class Sender(Protocol):
    """Sends lines of events to a server, as `tactful.client.Client` does."""

    def send_lines(self, kind: Literal["events"], lines: bytes, /) -> Any:
        """Send events, and return `EventsAccepted`."""


def redrive(
    client: Sender,
    letters: DeadLetters,
    progress: Path,  # file with the progress of earlier runs, which `restart` ignores
    rules: Collection[str],
    *,
    mending: Rules | None = None,  # rules that correct events; an event they drop stays a letter
    restart: bool = False,
    most: int | None = None,  # letters of this run; None: all
    advanced: Callable[[int], object] = lambda count: None,  # with the letters since the last call
) -> Redriven:
    """Send the dead letters of some rules to the server, oldest first.

    Raises:
        ClientError: if the server refuses; the progress is kept.
        DatasetError: if the progress file is damaged.
        LogError: if the letters cannot be read.
    """
    cursors = {} if restart else _load(progress)
    done = Redriven()
    batch: list[tuple[int, bytes]] = []
    read = total = 0

    def send(until: int) -> None:
        if batch:
            _send(client, batch, done)
            batch.clear()
        for rule in rules:
            cursors[rule] = max(cursors.get(rule, 0), until)
        replace_file(progress, msgspec.json.encode(cursors))

    start = min((cursors.get(rule, 0) for rule in rules), default=0)
    for position, letter in letters.read(start, rules):
        if position < cursors.get(letter.rule, 0):
            continue
        if total == most:
            done.more = True
            break
        entry = letter.entry()
        read += 1
        total += 1
        if not isinstance(entry, Event):
            done.unreadable += 1
            continue
        mended = entry if mending is None else mending.clean(entry, received=letter.received)
        if isinstance(mended, Dropped):
            done.held_back += 1
            continue
        batch.append((position, msgspec.json.encode(as_sent(mended))))
        if len(batch) == _BATCH:
            send(position + 1)
            advanced(read)
            read = 0
    send(position if done.more else letters.end)
    advanced(read)
    return done


_LOGGED = ("kind", "received_at", "sender", "import_id")  # fields that only the log has


def as_sent(event: Event | Item) -> dict[str, Any]:
    """Return an event or item as plain data, as a client sends it."""
    data = msgspec.to_builtins(event)
    return {
        key: value for key, value in data.items() if key not in _LOGGED and value not in (None, {})
    }


def _send(client: Sender, batch: list[tuple[int, bytes]], done: Redriven) -> None:
    answer = client.send_lines("events", b"\n".join(line for _, line in batch))
    assert isinstance(answer, EventsAccepted)
    done.accepted += answer.accepted
    done.duplicates += answer.duplicates
    done.rejected += len(answer.rejected)
    for refusal in answer.rejected[: _MOST_REFUSALS - len(done.refusals)]:
        done.refusals.append(
            RefusedLetter(
                position=batch[refusal.index][0], code=refusal.code, message=refusal.message
            )
        )


def _load(path: Path) -> dict[str, int]:
    try:
        return _cursors.decode(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, *DECODE_ERRORS) as error:
        raise DatasetError(f"{path}: damaged; begin anew with --restart") from error
