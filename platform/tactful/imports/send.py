"""Sends batches of elements, several at once, and keeps the place up to which all arrived."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from tactful.client import AsyncClient, Kind
from tactful.errors import DatasetError
from tactful.imports.formats.rows import Place, RejectedRow, RejectedRows
from tactful.schemas.data.imports import IMPORT_HEADER
from tactful.schemas.ingestion import EventsAccepted, Upserted
from tactful.schemas.positions import Position

_SAVE_S = 0.25
_DOUBTFUL = 500  # rejected elements after which an import stops, if none was accepted


@dataclass
class Batch:
    """Elements of one request.

    Attributes:
        lines: elements as JSON.
        numbers: row of each element.
        place: place in the file behind them; None if more elements of the same rows follow.
        rejected: rows between them that were rejected before they were sent.
        advanced: units of progress that they stand for.
        identified: whether every event has an id.
    """

    lines: list[bytes]
    numbers: Sequence[int]
    place: Place | None
    rejected: Sequence[RejectedRow] = ()
    advanced: int = 0
    identified: bool = True
    name: str = ""
    answer: asyncio.Task[EventsAccepted | Upserted] | None = None  # None if there are no lines

    @property
    def acknowledged(self) -> bool:
        """Whether the server has answered that they are durable."""
        answer = self.answer
        if answer is None or not answer.done() or answer.cancelled():
            return False
        return answer.exception() is None


@dataclass
class Sent:
    """Answers of the server so far."""

    accepted: int = 0
    duplicates: int = 0
    rejections: RejectedRows = field(default_factory=RejectedRows)
    refused: int = 0  # rejections by the server
    position: Position = 0


class Sender:
    """Sends batches at once, and settles them in the order of the file."""

    def __init__(
        self,
        client: AsyncClient,
        kind: Kind,
        *,
        in_flight: int,
        proved: bool,
        saved: Callable[[Place], object],
        advanced: Callable[[int], object],
        import_id: str = "",
    ) -> None:
        """Send elements of a kind; `import_id` marks them, if there is one.

        `proved` says that the server has accepted elements of the file in an earlier run. `saved`
        is called with the place of settled batches, four times a second and at the end; `advanced`
        with the units of progress of each settled batch.
        """
        self.sent = Sent()
        self._flying: deque[Batch] = deque()
        self._client, self._kind = client, kind
        self._mark = {IMPORT_HEADER: import_id} if import_id else {}
        self._in_flight = in_flight
        self._save, self._advanced = saved, advanced
        self._names = (f"{uuid.uuid4().hex[:16]}.{number}" for number in count())
        self._place: Place | None = None  # settled, but not saved
        self._saved_at = time.monotonic()
        self._proved = proved
        self._doubtful: list[RejectedRow] = []  # while the server has accepted nothing

    async def send(self, batch: Batch) -> None:
        """Send a batch; alone, until the server has accepted anything.

        Raises:
            DatasetError: if the server rejects all of the first 500 elements.
            ClientError: if the server fails or refuses a request.
        """
        while self._flying and (len(self._flying) >= self._in_flight or not self._proved):
            await self._settle()
        if batch.lines:
            batch.name = next(self._names)
            before = next(
                (earlier for earlier in reversed(self._flying) if earlier.answer is not None), None
            )
            # Lines of a file have their ends.
            body = (b"\n" if batch.identified else b"").join(batch.lines)
            call = self._client.send_lines(
                self._kind,
                body,
                new_id=None if batch.identified else partial(_event_id, batch),
                identified=batch.identified,
                headers=lambda: self._mark | _headers(batch.name, before),
            )
            batch.answer = asyncio.create_task(call)
        self._flying.append(batch)

    async def finish(self) -> None:
        """Wait for all answers.

        Raises:
            DatasetError: if the server has rejected everything.
            ClientError: if the server fails or refuses a request.
        """
        while self._flying:
            await self._settle()
        if self._doubtful and not self._proved:
            raise _all_rejected(self._doubtful)

    async def stop(self) -> None:
        """Give up the batches on their way, and save the place."""
        answers = [batch.answer for batch in self._flying if batch.answer is not None]
        for answer in answers:
            answer.cancel()
        await asyncio.gather(*answers, return_exceptions=True)
        self._save_place()

    async def _settle(self) -> None:
        """Wait for the answer to the oldest batch."""
        batch = self._flying[0]
        rejected = [*batch.rejected]
        if batch.answer is not None:
            answer = await batch.answer
            rejected += [
                RejectedRow(batch.numbers[reason.index], reason.code, reason.message)
                for reason in answer.rejected
            ]
            if not self._proved and len(answer.rejected) == len(batch.lines):
                self._doubtful += rejected
                if len(self._doubtful) >= _DOUBTFUL:
                    raise _all_rejected(self._doubtful)
            else:
                self._proved = True
            self.sent.accepted += answer.accepted
            self.sent.refused += len(answer.rejected)
            self.sent.position = answer.position
            if isinstance(answer, EventsAccepted):
                self.sent.duplicates += answer.duplicates
        self._flying.popleft()
        for rejection in sorted(rejected, key=lambda rejection: rejection.row):
            self.sent.rejections.add(rejection)
        if batch.place is not None:
            self._place = batch.place
        if time.monotonic() - self._saved_at >= _SAVE_S:
            self._save_place()
        self._advanced(batch.advanced)

    def _save_place(self) -> None:
        if self._place is not None and self._proved:
            self._save(self._place)
            self._place, self._saved_at = None, time.monotonic()


def _event_id(batch: Batch, index: int) -> str:
    """Return the id of an event without one: the same in every run."""
    place = b"%d:" % batch.numbers[index]
    return hashlib.blake2b(place + batch.lines[index].strip(), digest_size=16).hexdigest()


def _headers(name: str, before: Batch | None) -> dict[str, str]:
    """Return the place of a batch, behind the one before it while that has no answer."""
    headers = {"Tactful-Batch": name}
    if before is not None and not before.acknowledged:
        headers["Tactful-After"] = before.name
    return headers


def _all_rejected(rejected: list[RejectedRow]) -> DatasetError:
    """Return the error that ends an import of which the server accepts nothing."""
    counts = Counter(rejection.code for rejection in rejected).most_common()
    reasons = ", ".join(f"{number} {code}" for code, number in counts)
    first = min(rejected, key=lambda rejection: rejection.row)
    return DatasetError(
        f"the server rejected all of the first {len(rejected)} rows ({reasons}), so the import "
        f"stopped and nothing was stored. Row {first.row}: {first.code}: {first.message}"
    )
