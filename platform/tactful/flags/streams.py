"""Server-sent events that name each version of the flags.

```text
event: version
data: {"version":7}
```

A stream begins with the present version. Every 15 seconds without another one it sends a comment,
so that proxies and clients notice a connection that broke.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable

MOST_STREAMS = 500
HEARTBEAT_S = 15.0
_LIFETIME_MS = 600_000


class VersionStreams:
    """The open streams of one process."""

    def __init__(self, newer: Callable[[int], Awaitable[int]], *, clock: Callable[[], int]) -> None:
        """Prepare.

        Args:
            newer: returns the present version once it is not a given number, or after
                `HEARTBEAT_S`.
            clock: now in epoch milliseconds.
        """
        self._newer = newer
        self._clock = clock
        self._open = 0

    @property
    def is_full(self) -> bool:
        """Whether no more streams are accepted."""
        return self._open >= MOST_STREAMS

    async def events(self) -> AsyncGenerator[bytes]:
        """Yield the events of one stream, for ten minutes."""
        ends, sent = self._clock() + _LIFETIME_MS, -1
        self._open += 1
        try:
            while self._clock() < ends:
                number = await self._newer(sent)
                if number == sent:
                    yield b": no other version\n\n"
                else:
                    sent = number
                    yield b'event: version\ndata: {"version":%d}\n\n' % number
        finally:
            self._open -= 1
