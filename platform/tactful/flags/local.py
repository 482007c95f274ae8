"""Flags evaluated in your own process, from one signed payload of the server.

```python
with LocalFlags("https://tactful.example", key) as flags:
    unit = flags.for_unit(user_id="u-7", attributes={"country": "CH"})
    if unit.is_on("new-cart"):
        ...
```

An evaluation takes microseconds and no request. A thread follows the server's events, or polls
where those cannot be had; another one sends exposures.
"""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
import msgspec

from tactful.client import Client
from tactful.client.exchange import headers
from tactful.errors import ClientError, SignatureError
from tactful.flags.local_exposures import ExposureQueue
from tactful.flags.local_payload import PayloadReader
from tactful.flags.verify import IDENTITY, identity_of
from tactful.subjects.permissions import CLAIM
from tactful.util.addresses import with_scheme
from tactful_bandits.flags import Evaluation, Features, Overrides, evaluate
from tactful_privacy.decoding import DECODE_ERRORS

logger = logging.getLogger(__name__)

T = TypeVar("T")
Sticky = MutableMapping[str, dict[str, str]]
"""Arms that units keep: ``{"id||u-7": {"checkout-2027__0": "short"}}``."""

_STREAM = "/v1/flags/stream"

_SILENCE_S = 40.0  # the server sends something every 15 seconds
_SEND_S = 5.0
_FIRST_PAUSE_S, _MOST_DOUBLINGS = 1.0, 6  # pauses of 64 seconds at most
_STEADY_S = 30.0  # a stream that ends earlier counts as a failure: a proxy may end each one at once
_NO_EXPERIMENT = Overrides(enabled=False)


@dataclass(frozen=True)
class Updates:
    """Ways in which new versions of the flags are noticed.

    Attributes:
        stream: whether to follow the server's events.
        poll_s: seconds between requests while there is no stream.
        jitter: random numbers in [0, 1) that spread the pauses.
    """

    stream: bool = True
    poll_s: float = 60.0
    jitter: Callable[[], float] = random.random

    def pause_s(self, failures: int, *, streams: bool) -> float:
        """Return the pause after so many failures in a row; `streams` is whether there is one."""
        if failures == 0 and not streams:
            return self.poll_s * (0.75 + self.jitter() / 2)
        doublings = min(max(failures - 1, 0), _MOST_DOUBLINGS)
        return float(_FIRST_PAUSE_S * 2**doublings) * self.jitter()


class LocalFlags:
    """The flags of one server, safe to share by threads.

    Without the server, the last flags hold: those of this process, else those of `file`; else every
    flag has the caller's default.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8420",
        api_key: str | None = None,
        *,
        signing_key: str | None = None,
        file: Path | None = None,
        sticky: Sticky | None = None,
        updates: Updates | None = None,
        tls: ssl.SSLContext | None = None,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare; nothing is fetched before `start` or `refresh`.

        Args:
            base_url: address of the server; without a scheme http for this machine, else https.
            api_key: key with the scope ``recommend``; exposures need ``ingest``, too.
            signing_key: public key of the server, 32 bytes in base64; None asks the server for it.
            file: keeps the last payload for a start without the server.
            sticky: keeps arms of sticky experiments; None keeps none.
            updates: how new versions are noticed; None follows the server's events.
            tls: certificates to trust and to show, as of `tactful.client.Client`.
            transport: another way to send requests, for tests.
            clock: now in epoch seconds.

        Raises:
            ConfigError: if `base_url` is no address of a server.
        """
        base_url = with_scheme(base_url)
        self._http = httpx.Client(
            base_url=base_url,
            headers=headers(api_key),
            timeout=10.0,
            verify=True if tls is None else tls,
            transport=transport,
        )
        self._client = Client(base_url, api_key, retries=1, tls=tls, transport=transport)
        self._reader = PayloadReader(self._http, signing_key=signing_key, file=file)
        self._exposures = ExposureQueue(self._client.events)
        self._features = Features({})
        self._sticky = sticky
        self._updates = updates or Updates()
        self._streams = self._updates.stream
        self._clock = clock
        self._refreshing = threading.Lock()
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []
        self._stream: httpx.Response | None = None
        self._listeners: list[Callable[[int], object]] = []

    @property
    def version(self) -> int:
        """Version of the flags; 0 before the first payload."""
        return self._features.version

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def start(self) -> Self:
        """Fetch the flags, and follow them in the background; a failure is only logged.

        Further calls do nothing.
        """
        if self._threads:
            return self
        if restored := self._reader.restore():
            self._features = restored
        failed = self._try(self.refresh)
        self._threads = [
            threading.Thread(target=self._follow, args=(failed,), name="flags", daemon=True),
            threading.Thread(target=self._send, name="flag-exposures", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        return self

    def close(self) -> None:
        """Send the waiting exposures, and stop."""
        self._closed.set()
        _interrupt(self._stream)
        for thread in self._threads:
            thread.join(timeout=15.0)
        self._try(self._exposures.flush)
        self._http.close()
        self._client.close()

    def refresh(self) -> bool:
        """Fetch the flags now; return whether they have changed.

        Raises:
            ClientError: no usable answer, or an older version; the flags stay as they are.
            SignatureError: the server's key has not signed the answer.
        """
        with self._refreshing:
            features = self._reader.fetch()
            if features is None:
                return False
            self._features = features
        for listener in [*self._listeners]:
            try:
                listener(features.version)
            except Exception:
                logger.exception("flags: a listener failed; the flags have changed nevertheless")
        return True

    def on_change(self, listener: Callable[[int], object]) -> None:
        """Call a function with the version after each change, in the thread that noticed it."""
        self._listeners.append(listener)

    def for_unit(
        self,
        *,
        user_id: str | None = None,
        device_id: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        consented: bool | None = None,
    ) -> UnitFlags:
        """Return the flags of one unit.

        Args:
            user_id: the user; `id` and `user_id` of conditions.
            device_id: the device, where the user is not known.
            attributes: other attributes that conditions read.
            consented: whether the unit has agreed to `measurement`. False: no experiment and no
                share of users applies, no condition reads an id, and nothing is sent. True: the
                exposures say so. None: they count if the server has recorded the consent, or
                assumes it (`consent.default`).
        """
        identity = identity_of(user_id, device_id)
        known = dict(attributes or {})
        if consented is False:
            identity = {}
            known = {name: value for name, value in known.items() if name not in IDENTITY}
        return UnitFlags(self, identity, known, consented)

    def _evaluate(self, key: str, unit: UnitFlags, *, use: bool) -> Evaluation:
        features, sticky = self._features, self._sticky
        attributes = {**unit.attributes, **unit.identity}
        if unit.consented is False:
            return evaluate(features, key, attributes, overrides=_NO_EXPERIMENT)
        result = evaluate(features, key, attributes, sticky=sticky)
        if use:
            if sticky is not None and result.sticky_save is not None:
                document, experiment, arm = result.sticky_save
                sticky[document] = {**sticky.get(document, {}), experiment: arm}
            # The clock of this machine may be behind that of the server.
            now = max(round(self._clock() * 1_000), self._reader.made_ms)
            sent: dict[str, Any] = {k: text for k, text in unit.identity.items() if k != "id"}
            if unit.consented:
                sent["context"] = {CLAIM: "measurement"}
            self._exposures.put(result, sent, features.version, now)
        return result

    def _follow(self, failed: bool) -> None:
        """Listen to the server, or ask it now and then, until `close`."""
        failures = int(failed)
        while not self._closed.is_set():
            if self._streams and not failed:
                began = self._clock()
                self._try(self._listen)
                steady = self._clock() - began >= _STEADY_S
                failures = 0 if steady else failures + int(self._streams)
            if self._closed.wait(self._updates.pause_s(failures, streams=self._streams)):
                return
            failed = self._try(self.refresh)
            if failed:
                failures += 1
            elif not self._streams:
                failures = 0

    def _listen(self) -> None:
        """Fetch each announced version, until the stream ends."""
        timeout = httpx.Timeout(10.0, read=_SILENCE_S)
        try:
            with self._http.stream("GET", _STREAM, timeout=timeout) as response:
                self._stream = response
                self._streams = response.status_code != 404  # a proxy may let none through
                if not response.is_success:
                    raise ClientError(f"{_STREAM}: status {response.status_code}; flags are polled")
                for line in response.iter_lines():
                    if self._closed.is_set():
                        return
                    if line.startswith("data:"):
                        self._catch_up(_announced(line))
        except httpx.HTTPError as error:
            raise ClientError(f"{_STREAM}: the stream broke: {type(error).__name__}") from error
        finally:
            self._stream = None

    def _catch_up(self, announced: int) -> None:
        if announced == self.version:
            return
        self.refresh()
        if self.version < announced:  # the next process of the server may not have it yet
            raise ClientError(f"{_STREAM}: version {announced} was announced and is not there yet")

    def _send(self) -> None:
        while not self._closed.wait(_SEND_S):
            self._try(self._exposures.flush)

    def _try(self, work: Callable[[], object]) -> bool:
        """Do work in the background; return whether it failed."""
        try:
            work()
        except (ClientError, SignatureError) as error:
            if not self._closed.is_set():
                logger.warning("flags: %s", error)
            return True
        except Exception:
            logger.exception("flags: unexpected error; they stay as they are")
            return True
        return False


@dataclass(frozen=True)
class UnitFlags:
    """The flags of one unit."""

    flags: LocalFlags = field(repr=False)
    identity: Mapping[str, str] = field(repr=False)
    attributes: Mapping[str, Any] = field(repr=False)
    consented: bool | None = None

    def is_on(self, key: str) -> bool:
        """Return whether the value of a flag counts as true; an unknown flag is off."""
        return self.flags._evaluate(key, self, use=True).on

    def value(self, key: str, default: T) -> T:
        """Return the value of a flag; `default` if there is none, or one of another type."""
        value = self.flags._evaluate(key, self, use=True).value
        same = default is None or _kind(value) == _kind(default)
        return value if value is not None and same else default

    def explain(self, key: str) -> Evaluation:
        """Return the value of a flag with the reason; it counts as no exposure."""
        return self.flags._evaluate(key, self, use=False)


def _kind(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float
    return type(value)


class _Announced(msgspec.Struct):
    version: int


def _announced(line: str) -> int:
    try:
        return msgspec.json.decode(line.removeprefix("data:"), type=_Announced).version
    except DECODE_ERRORS as error:
        raise ClientError(f"{_STREAM}: the event cannot be decoded: {error}") from error


def _interrupt(response: httpx.Response | None) -> None:
    """End a stream that another thread waits for; closing its connection would not wake it."""
    stream = None if response is None else response.extensions.get("network_stream")
    found = None if stream is None else stream.get_extra_info("socket")
    if isinstance(found, socket.socket):
        with contextlib.suppress(OSError):
            found.shutdown(socket.SHUT_RDWR)
