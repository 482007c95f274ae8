"""Whether a topic that brokers do not serve at present still exists."""

from __future__ import annotations

import time
from collections.abc import Callable

from tactful_streaming.errors import (
    LogError,
    LogUnreachableError,
    TopicError,
    TopicMissingError,
)
from tactful_streaming.kafka.config import KafkaSettings

_ASK_EVERY_S = 2.0
_BELIEVED_AFTER_S = 30.0
_PAUSE_S = 0.1

START_S = 2.0
"""Time for which all answers have to report a topic missing that a start needs and never saw.

Its name may be a mistake, and the message says nothing of a deletion. For a broker that has just
started the controller answers.
"""


class TopicWatch:
    """Asks for a topic while there is doubt, for one thread.

    A broker that restarts may report a topic missing that exists. A topic counts as deleted only
    if all answers of 30 seconds report it missing; the lack of an answer proves nothing. One that
    was never seen does not exist if all answers of `unseen_s` report it missing.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        known: str | None,
        ask: Callable[[KafkaSettings], str | None],
        *,
        unseen_s: float | None = None,
        every_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Watch a topic.

        Args:
            settings: address and name of the topic.
            known: id of the topic; None: the id of its first answer.
            ask: returns the id, None from brokers without ids, or raises TopicMissingError or
                LogUnreachableError.
            unseen_s: bound for a topic that was never seen; None: 30 seconds, too.
            every_s: shortest time between two questions; None: two seconds.
            clock: monotonic seconds.
        """
        self._settings = settings
        self._known = known
        self._seen = known is not None
        self._ask = ask
        self._unseen_s = _BELIEVED_AFTER_S if unseen_s is None else unseen_s
        self._every_s = _ASK_EVERY_S if every_s is None else every_s
        self._clock = clock
        self._ask_at = 0.0
        self._missing_since: float | None = None
        self._doubt = False
        self._trouble: LogError | None = None

    @property
    def doubt(self) -> bool:
        """Whether the next answer is awaited."""
        return self._doubt

    @property
    def trouble(self) -> LogError | None:
        """The last answer, if it was not that the topic exists."""
        return self._trouble

    def begin(self) -> None:
        """Begin to doubt that the topic exists, or that a broker answers."""
        if not self._doubt:
            self._doubt = True
            self._ask_at = 0.0

    def seen(self, identity: str | None = None) -> None:
        """Note that the topic has been assigned or read, and its id if that was asked before."""
        self._seen = True
        self._known = self._known or identity

    def settled(self) -> bool:
        """Ask, if there is doubt and an answer is due; return whether the topic exists.

        Raises:
            TopicError: if the topic was deleted, or deleted and made anew; TopicMissingError if it
                never existed.
            LogError: if the cluster refuses the question.
        """
        if not self._doubt or self._clock() < self._ask_at:
            return not self._doubt
        try:
            identity = self._ask(self._settings)
        except LogUnreachableError as error:
            self._missing_since, self._trouble = None, error
        except TopicMissingError as error:
            self._trouble = error
            if self._missing_since is None:
                self._missing_since = self._clock()
            bound_s = _BELIEVED_AFTER_S if self._seen else self._unseen_s
            if self._clock() - self._missing_since >= bound_s:
                raise self._deleted(bound_s) from error
        except LogError:
            self._missing_since = None
            raise
        else:
            self._missing_since = self._trouble = None
            self._doubt = False
            self._compare(identity)
        self._ask_at = self._clock() + self._every_s
        return not self._doubt

    def wait(self, timeout_s: float) -> str | None:
        """Ask until the topic exists; return its id, or None from brokers without ids.

        Raises:
            LogError: as :meth:`settled`, or the last answer if the timeout is over.
        """
        until = self._clock() + timeout_s
        self.begin()
        while not self.settled():
            if self._trouble is not None and self._clock() >= until:
                raise self._trouble
            time.sleep(_PAUSE_S)
        return self._known

    def _compare(self, identity: str | None) -> None:
        self._seen = True
        self._known = self._known or identity
        if identity is not None and identity != self._known:
            raise TopicError(
                f"topic {self._settings.topic!r} at {self._settings.servers} was deleted and made "
                "anew. Stop all processes that use it, and restore the old one from a backup or "
                "begin again with the new one"
            )

    def _deleted(self, bound_s: float) -> TopicError:
        where = f"topic {self._settings.topic!r} at {self._settings.servers}"
        since = f"all answers of {bound_s:g} s report it missing"
        if not self._seen:
            return TopicMissingError(
                f"{where} does not exist ({since}): make it first, or name another",
                self._settings.topic,
            )
        return TopicError(
            f"{where} is not there any more: {since}. If it was deleted, its records are lost: "
            "restore it from a backup, or make it again and rebuild"
        )
