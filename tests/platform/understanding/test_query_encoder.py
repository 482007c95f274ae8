"""The process that encodes queries: its vectors, and what happens when it hangs or crashes."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.platform.understanding.tiny_picture_model import plain_picture, write_picture_model

from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.config.understanding import UnderstandingSettings
from tactful.errors import PictureError
from tactful.understanding.query_encoder import QueryEncoder
from tactful.util.framed_process import ProcessUnavailable

# An encoder that does what the text says; the protocol is the real one.
PROGRAM = """
import sys, time
import numpy as np
from tactful.understanding import query_worker

class Actor:
    name, dimensions, calls = "actor", 3, 0
    def encode(self, texts):
        self.calls += 1
        if texts == ["hang"]:
            time.sleep(600)
        if texts == ["slow"]:
            time.sleep(1)
        if texts == ["crash"]:
            import os, signal
            os.kill(os.getpid(), signal.SIGSEGV)
        print("a library prints")
        return np.array([[len(texts[0]), self.calls, 0]], np.float32)

def opened(settings):
    file = settings.storage.data / "name"
    Actor.name = file.read_text() if file.is_file() else "actor"
    return Actor()

query_worker.open_text_encoder = opened
query_worker.main(sys.argv[1:])
"""


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def encoder(data: Path, *program: str, clock: Callable[[], float] = time.monotonic) -> QueryEncoder:
    settings = Settings(
        storage=StorageSettings(data=data), understanding=UnderstandingSettings(text_model="x")
    )
    command = (sys.executable, "-c", *(program or (PROGRAM,)))
    return QueryEncoder(
        settings, "text", command=command, **({} if clock is None else {"clock": clock})
    )


@pytest.mark.slow
def test_vectors_failures_and_what_is_kept(tmp_path: Path) -> None:
    async def work() -> None:
        queries = encoder(tmp_path)
        first, again, other = [await queries.text(text) for text in ("red", "red", "blue")]
        assert first.dtype == np.float32 and first.tolist() == [3.0, 1.0, 0.0]
        assert (again.tolist(), other.tolist()) == ([3.0, 1.0, 0.0], [4.0, 2.0, 0.0])
        assert queries.ready is not None
        assert (queries.ready.name, queries.ready.dimensions) == ("actor", 3)
        with pytest.raises(ProcessUnavailable, match="ended during the query"):
            await queries.text("crash")
        assert (await queries.text("red")).tolist() == [3.0, 1.0, 0.0]  # kept
        assert (await queries.text("green")).tolist() == [5.0, 1.0, 0.0]  # by another process
        (tmp_path / "name").write_text("other")
        with pytest.raises(ProcessUnavailable):
            await queries.text("crash")
        assert (await queries.text("mauve")).tolist() == [5.0, 1.0, 0.0]
        assert queries.ready.name == "other"
        assert (await queries.text("red")).tolist() == [3.0, 2.0, 0.0]  # not of the former model
        with pytest.raises(ProcessUnavailable, match="did not answer within"):
            await queries.text("slow", seconds=0.01)
        # Nobody waits for it any more, and it is kept all the same.
        assert (await queries.text("slow")).tolist() == [4.0, 3.0, 0.0]
        waiting = [asyncio.create_task(queries.text("hang"))]
        waiting += [asyncio.create_task(queries.text(f"{number}")) for number in range(63)]
        await asyncio.sleep(0)
        with pytest.raises(ProcessUnavailable, match="too many"):
            await queries.text("one more")
        await queries.close()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(it, asyncio.CancelledError) for it in ended)

    run(work())


def test_a_process_that_does_not_start_is_tried_again_after_a_pause(tmp_path: Path) -> None:
    now = [100.0]

    async def work() -> None:
        queries = encoder(tmp_path, "raise SystemExit(3)", clock=lambda: now[0])
        for pause in (1, 2):
            with pytest.raises(ProcessUnavailable, match="ended"):
                await queries.text("red")
            with pytest.raises(ProcessUnavailable, match="does not start") as refusal:
                await queries.text("red")
            assert refusal.value.retry_after == pause
            now[0] += pause
        await queries.close()

    run(work())


@pytest.mark.slow  # a process with ONNX Runtime; searches over HTTP test the same beside it
def test_pictures_and_their_refusals(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("PIL")
    red, blue = plain_picture((255, 0, 0)), plain_picture((0, 0, 255))

    async def work() -> None:
        chosen = UnderstandingSettings(picture_model=str(write_picture_model(tmp_path / "tiny")))
        settings = Settings(storage=StorageSettings(data=tmp_path), understanding=chosen)
        queries = QueryEncoder(settings, "picture")
        assert (await queries.picture(red)).tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)
        for data, reason in {
            b"": "empty",
            b"<svg xmlns='http://www.w3.org/2000/svg'/>": "SVG",
            red[:45]: "damaged",
            plain_picture((1, 2, 3), kind="BMP"): "unknown format",
        }.items():
            with pytest.raises(PictureError, match=reason):
                await queries.picture(data)
        assert (await queries.picture(blue)).tolist() == pytest.approx([0.0, 0.0, 1.0], abs=1e-6)
        await queries.close()

    run(work())


def test_a_program_that_is_absent_is_unavailable(tmp_path: Path) -> None:
    async def work() -> None:
        settings = Settings(
            storage=StorageSettings(data=tmp_path),
            understanding=UnderstandingSettings(text_model="x"),
        )
        queries = QueryEncoder(settings, "text", command=(str(tmp_path / "none"),))
        with pytest.raises(ProcessUnavailable, match="cannot be started"):
            await queries.text("red")
        await queries.close()

    run(work())
