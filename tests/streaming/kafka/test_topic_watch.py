"""A topic that brokers report missing: for how long before it counts as deleted."""

from collections.abc import Callable
from functools import partial

import pytest

from tactful_streaming.errors import LogError, LogUnreachableError, TopicError, TopicMissingError
from tactful_streaming.kafka.client import missing_topic
from tactful_streaming.kafka.config import KafkaSettings
from tactful_streaming.kafka.topic_watch import TopicWatch

SETTINGS = KafkaSettings("127.0.0.1:1", "t")


class Watched:
    """A watch whose answers a test gives, and its clock."""

    def __init__(self, known: str | None) -> None:
        self.now, self.asked = 0.0, 0
        self.answer: Callable[[], str | None] = lambda: "one"
        self.watch = TopicWatch(SETTINGS, known, self._ask, clock=lambda: self.now)
        self.watch.begin()

    def _ask(self, settings: KafkaSettings) -> str | None:
        assert settings == SETTINGS
        self.asked += 1
        return self.answer()

    def wait(self, seconds: float) -> bool:
        until = self.now + seconds
        while self.now < until:
            self.now += 0.5
            settled = self.watch.settled()
        return settled


def missing() -> str | None:
    raise missing_topic(SETTINGS)


def silent() -> str | None:
    raise LogUnreachableError("no broker answers", retry_after=1.0)


def test_a_topic_is_deleted_only_after_half_a_minute_of_answers() -> None:
    watched = Watched("one")
    watched.answer = missing
    assert not watched.wait(29)
    with pytest.raises(TopicError, match=r"not there any more: all answers of 30 s.*If it was del"):
        watched.wait(5)
    assert watched.asked <= 18, "every two seconds"


@pytest.mark.parametrize("between", [silent, lambda: "one", lambda: None])
def test_other_answers_begin_the_half_minute_again(between: Callable[[], str | None]) -> None:
    watched = Watched("one")
    for _ in range(10):
        watched.answer = missing
        watched.watch.begin()
        assert not watched.wait(27)
        watched.answer = between
        watched.wait(3)
    watched.answer = lambda: "one"
    assert watched.wait(3)


def test_an_hour_without_answers_proves_nothing() -> None:
    watched = Watched("one")
    watched.answer = silent
    assert not watched.wait(3600)
    watched.answer = lambda: "one"
    assert watched.wait(3)
    asked = watched.asked
    assert watched.wait(60)
    assert watched.asked == asked, "without doubt nothing is asked"


def test_a_topic_that_never_existed() -> None:
    watched = Watched(None)
    watched.answer = missing
    with pytest.raises(TopicMissingError, match=r"does not exist .*make it first") as caught:
        watched.wait(60)
    assert "deleted" not in str(caught.value)
    assert caught.value.topic == "t"


@pytest.mark.parametrize("known", ["one", None])
def test_a_topic_made_anew(known: str | None) -> None:
    """A new topic of the same name is refused; brokers without ids are believed."""
    watched = Watched(known)
    for identity in ("one", None, "one"):
        watched.answer = partial(str, identity) if identity else lambda: None
        watched.watch.begin()
        assert watched.wait(3)
    watched.answer = lambda: "two"
    watched.watch.begin()
    with pytest.raises(TopicError, match="deleted and made anew"):
        watched.wait(3)


def test_a_refusal_is_raised() -> None:
    def refused() -> str | None:
        raise LogError("refused us")

    watched = Watched("one")
    watched.answer = refused
    with pytest.raises(LogError, match="refused us"):
        watched.wait(3)
