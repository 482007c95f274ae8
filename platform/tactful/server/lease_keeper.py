"""Keeps the lease on the tasks of one server alone, in a thread of its own.

Renewals must go on while the event loop is busy and while the engine applies events, so neither
does them.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading

from tactful.config.settings import Settings
from tactful.errors import StorageError
from tactful.metadata.lease import LEASE_MS, Lease
from tactful.metadata.store import MetadataStore

logger = logging.getLogger(__name__)

_RENEW_S = LEASE_MS / 1000 / 5
_LOOK_S = 0.5  # pause of a server that waits, so that a clean stop hands over at once


def make_lease(settings: Settings, metadata: MetadataStore) -> Lease:
    """Make the lease of a server, which it does not hold yet.

    Metadata in the data directory have one server alone, which locks the directory.
    """
    return Lease(
        metadata,
        f"{socket.gethostname()[:60]}:{os.getpid()}:{secrets.token_hex(4)}",
        alone=not settings.metadata.url_env,
    )


class LeaseKeeper:
    """Takes the lease as soon as it is free, and renews it until `close`."""

    def __init__(self, lease: Lease, *, renew_s: float = _RENEW_S, look_s: float = _LOOK_S) -> None:
        """Keep a lease; nothing is done before `start`."""
        self._lease = lease
        self._renew_s, self._look_s = renew_s, look_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tactful-lease", daemon=True)
        self._held = self._failing = False

    def start(self) -> None:
        """Try once, and start the thread."""
        self._keep()
        self._thread.start()

    def close(self) -> None:
        """Stop, and let another server take the lease at once."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        try:
            self._lease.release()
        except StorageError as error:
            logger.warning("the lease was not released, and ends by itself: %s", error)

    def _run(self) -> None:
        while not self._stopping.wait(self._renew_s if self._held else self._look_s):
            self._keep()

    def _keep(self) -> None:
        try:
            if self._held or self._lease.free() or self._lease.alone:
                self._note(self._lease.acquire() is not None)
            self._failing = False
        except StorageError as error:
            if not self._failing:
                logger.warning("the lease cannot be renewed: %s", error)
            self._failing = True
            self._held = self._lease.held

    def _note(self, held: bool) -> None:
        if held and not self._held:
            logger.info("this server has the lease: it sends, publishes and schedules from now on")
        elif self._held and not held:
            logger.warning("another server has taken the lease: it goes on with its tasks")
        self._held = held
