"""Main program of a child process that answers frames; see `tactful.util.framed_process`."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import msgspec

from tactful.util.supervisor import die_with_parent

HEAD = struct.Struct("<I")
"""Length of a message."""

_NICENESS = 5  # the server's other requests take milliseconds


def encode_frame(message: object) -> bytes:
    """Return a message as one frame."""
    data = msgspec.msgpack.encode(message)
    return HEAD.pack(len(data)) + data


def begin_worker(memory_mb: int) -> BinaryIO:
    """Prepare this process to read data of strangers, and return the stream for its frames.

    It ends with its parent, has a low priority, and no more than `memory_mb` of data. Libraries
    print to standard output: it becomes standard error, and a copy carries the frames.
    """
    die_with_parent()
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    os.nice(_NICENESS)
    _limit_memory(memory_mb)
    return target


@contextlib.contextmanager
def silent_libraries() -> Iterator[None]:
    """Discard what native code prints on standard error, such as each fault of a damaged file.

    A stranger would fill the log of the server with it. Only for a process with one thread.
    """
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def serve_frames(
    answer: Callable[[Any], object],
    requests: Any,  # type of the requests, for msgspec
    ready: object,  # first frame, which reports that the process is ready
    target: BinaryIO,
    source: BinaryIO | None = None,
) -> None:
    """Answer the frames of `source`, or of standard input, until it ends."""
    source = source or sys.stdin.buffer
    decoder: Any = msgspec.msgpack.Decoder(requests)
    target.write(encode_frame(ready))
    target.flush()
    while len(head := source.read(HEAD.size)) == HEAD.size:
        (length,) = HEAD.unpack(head)
        data = source.read(length)
        if len(data) < length:
            return
        target.write(encode_frame(answer(decoder.decode(data))))
        target.flush()


def _limit_memory(megabytes: int) -> None:
    import resource

    most = megabytes * 2**20
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
