"""Files that are uploaded to a server and imported there, in a thread.

An upload lies in the data directory until its import is over::

    uploads/9f3c…/content.csv     the file, sent in parts
    uploads/9f3c…/start.json      how it is understood, once its import has begun
    uploads/9f3c…/progress        how far it was imported

An import that was interrupted goes on at the next start. The elements pass through the routes of
the server, like those of any client.
"""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import msgspec

from tactful.client import AsyncClient
from tactful.errors import ClientError, ConfigError, DatasetError, TactfulError
from tactful.http.resource import Application, route
from tactful.http.routes import ENDPOINTS
from tactful.imports.options import ImportOptions
from tactful.imports.plan import as_json
from tactful.imports.progress import ProgressStore
from tactful.imports.run import Job, end, prepare, preview, run
from tactful.metadata.key_cache import ApiKey
from tactful.schemas.data.imports import FilePreview, ImportMapping, RefusedRow, Uploaded
from tactful.schemas.problems import ProblemError

if TYPE_CHECKING:
    from tactful.server.platform import Platform

logger = logging.getLogger(__name__)

MOST_BYTES = 2 << 30
"""Size of the largest file that is taken."""

_URL = "http://localhost"
_SUFFIXES = re.compile(r"(\.[a-z0-9]{1,8}){1,2}$")
_PREVIEWED = 20
_OLD_MS = 86_400_000  # an upload without an import is deleted after it


class Uploads:
    """Uploaded files of one server; its methods block, except `begin` and `resume`."""

    def __init__(self, platform: Platform) -> None:
        """Prepare; nothing is read before `resume`."""
        self._platform = platform
        self._folder = platform.settings.storage.data / "uploads"
        self._running: dict[str, asyncio.Task[None]] = {}
        self._stopping = False

    def append(self, import_id: str, name: str, offset: int, part: bytes) -> Uploaded:
        """Write a part of a file; a repeated part is written over.

        Raises:
            ProblemError: if parts are missing before it, or the file is too large.
        """
        if offset + len(part) > MOST_BYTES:
            raise ProblemError("too_large", f"a file may have {MOST_BYTES} bytes: divide it")
        self._delete_old()
        folder = self._folder / import_id
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (folder / "start.json").exists():
            raise ProblemError("invalid", "its import has begun: upload it under another id")
        suffix = _SUFFIXES.search(name.lower())
        path = self._content(import_id) or folder / f"content{suffix[0] if suffix else ''}"
        with path.open("r+b" if path.exists() else "w+b") as file:
            size = file.seek(0, 2)
            if offset > size:
                raise ProblemError("invalid", f"the file ends at {size}: send that part first")
            file.seek(offset)
            file.write(part)
            file.truncate()
        return Uploaded(bytes=offset + len(part))

    def preview(self, import_id: str, name: str, mapping: ImportMapping) -> FilePreview:
        """Return how a file of this name is understood, and its first rows.

        Raises:
            ProblemError: if it cannot be understood; the detail says what is missing.
        """
        job = self._job(import_id, mapping)
        elements, rejected = preview(job, _PREVIEWED)
        found = as_json(job.guess)
        return FilePreview(
            format=job.reader.about,
            kind=job.guess.plan.kind,
            columns=[*job.reader.columns],
            mapping=dict(found["mapping"]),
            not_sent=list(found["not_sent"]),
            notes=[note.replace(job.reader.path.name, name) for note in job.guess.notes],
            elements=[msgspec.json.decode(element) for element in elements],
            refused=[RefusedRow(row=r.row, code=r.code, message=r.message) for r in rejected.first],
        )

    async def begin(self, import_id: str, mapping: ImportMapping) -> None:
        """Begin the import of a file, in a thread.

        Raises:
            ProblemError: if it cannot be understood.
        """
        if import_id in self._running:
            return
        await asyncio.to_thread(self._job, import_id, mapping)
        note = self._folder / import_id / "start.json"
        await asyncio.to_thread(note.write_bytes, msgspec.json.encode(mapping))
        self._start(import_id, mapping)

    def resume(self) -> None:
        """Go on with the imports that the last process left, on the running event loop."""
        for note in sorted(self._folder.glob("*/start.json")):
            mapping = msgspec.json.decode(note.read_bytes(), type=ImportMapping)
            self._start(note.parent.name, mapping)

    async def stop(self) -> None:
        """Interrupt all imports between two batches."""
        self._stopping = True
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    def _start(self, import_id: str, mapping: ImportMapping) -> None:
        task = asyncio.create_task(self._import(import_id, mapping))
        self._running[import_id] = task
        task.add_done_callback(lambda _: self._running.pop(import_id, None))

    async def _import(self, import_id: str, mapping: ImportMapping) -> None:
        """Import a file by a client within this process, and delete the file."""
        loop = asyncio.get_running_loop()
        application = route(ENDPOINTS, _Inside(self._platform))  # type: ignore[arg-type]

        def advanced(units: int) -> None:
            if self._stopping:
                raise _ServerStops

        async def send() -> None:
            job = self._job(import_id, mapping)
            job.import_id = import_id
            transport = _LoopTransport(application, loop)
            async with AsyncClient(_URL, "inside", transport=transport) as client:
                outcome = await run(
                    job,
                    client,
                    batch=500,
                    in_flight=4,
                    advanced=advanced,
                    now_ms=self._platform.resources.installation.clock,
                )
                await end(job, client, outcome)

        try:
            await asyncio.to_thread(asyncio.run, send())
        except _ServerStops:
            return
        except (ClientError, DatasetError, ConfigError, ProblemError, OSError) as error:
            logger.warning("the import of an uploaded file ended early: %s", type(error).__name__)
            fail = self._platform.imports.fail
            await asyncio.to_thread(fail, import_id, str(error))
        await asyncio.to_thread(shutil.rmtree, self._folder / import_id, True)

    def _job(self, import_id: str, mapping: ImportMapping) -> Job:
        path = self._content(import_id)
        if path is None:
            raise ProblemError("not_found", "no file was uploaded under this id")
        try:
            store = ProgressStore(path.parent)
            return prepare(path, _options(mapping), _URL, store, restart=False)
        except (ConfigError, DatasetError, TactfulError) as error:
            raise ProblemError("invalid", str(error).replace(str(path), "the file")) from None

    def _content(self, import_id: str) -> Path | None:
        return next((self._folder / import_id).glob("content*"), None)

    def _delete_old(self) -> None:
        """Delete uploads whose import never began."""
        before = self._platform.resources.installation.clock() - _OLD_MS
        for folder in self._folder.glob("*"):
            if not (folder / "start.json").exists() and folder.stat().st_mtime * 1000 < before:
                shutil.rmtree(folder, ignore_errors=True)


def _options(mapping: ImportMapping) -> ImportOptions:
    def pairs(values: dict[str, str]) -> tuple[str, ...]:
        return tuple(f"{target}={value}" for target, value in values.items())

    return ImportOptions(
        kind=mapping.kind,
        maps=pairs(mapping.maps),
        constants=pairs(mapping.constants),
        types=pairs(mapping.types),
        date_order=mapping.date_order,
        time_zone=mapping.time_zone,
        decimal=mapping.decimal,
        encoding=mapping.encoding,
        delimiter=mapping.delimiter,
    )


class _ServerStops(Exception):
    """Ends an import that goes on at the next start."""


class _Inside:
    """A platform whose only key is that of this module's client."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self.keys = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._platform, name)

    def check(self, key: str) -> ApiKey:
        """Return a key that may send elements."""
        return ApiKey("", frozenset({"ingest"}), "uploads", 0, None)


class _LoopTransport(httpx.AsyncBaseTransport):
    """Sends requests of another event loop to an application on its own."""

    def __init__(self, application: Application, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = httpx.ASGITransport(application)
        self._loop = loop

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        content = await request.aread()

        async def answer() -> httpx.Response:
            sent = httpx.Request(
                request.method, request.url, headers=request.headers, content=content
            )
            sent.extensions = request.extensions
            response = await self._inner.handle_async_request(sent)
            body = await response.aread()
            return httpx.Response(response.status_code, headers=response.headers, content=body)

        done = asyncio.run_coroutine_threadsafe(answer(), self._loop)
        return await asyncio.wrap_future(done)
