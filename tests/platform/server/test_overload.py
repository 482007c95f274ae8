"""Admission control on a simulated clock, which jumps to the next event."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from tactful.config.server import ServerSettings
from tactful.schemas.problems import ProblemError
from tactful.schemas.recommendations import RecommendRequest
from tactful.server.overload import AdmissionControl, CheaperAnswers

TURN_S = 0.003


class Jumping(selectors.DefaultSelector):
    """Advance the clock by the time to wait."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return super().select(0)


@pytest.fixture
def loop() -> Iterator[asyncio.SelectorEventLoop]:
    selector = Jumping()
    made = asyncio.SelectorEventLoop(selector)
    made.time = lambda: selector.now  # type: ignore[method-assign]
    yield made
    made.close()


@dataclass
class Load:
    """Outcome of a load: seconds to each answer, and to each refusal."""

    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)


def make(loop: asyncio.AbstractEventLoop, **changes: float) -> AdmissionControl:
    given: dict[str, Any] = {"queue": 128, "wait_s": 1.0, "standing_s": 0.05, **changes}
    settings = ServerSettings(**{f"recommend_{name}": value for name, value in given.items()})
    return AdmissionControl(settings, clock=loop.time)


async def ask(admission: AdmissionControl, load: Load, turn_s: float = TURN_S) -> None:
    time = asyncio.get_running_loop().time
    came = time()
    try:
        async with admission:
            await asyncio.sleep(turn_s)
    except ProblemError as error:
        assert (error.kind.code, error.retry_after) == ("overloaded", 1)
        load.refused.append(time() - came)
    else:
        load.answered.append(time() - came)


async def arrivals(admission: AdmissionControl, rate: float, seconds: float, load: Load) -> None:
    """Callers who come at random, however many still wait."""
    chance, due = random.Random(3), asyncio.get_running_loop().time()
    end, tasks = due + seconds, []
    while due < end:
        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
        tasks.append(asyncio.create_task(ask(admission, load)))
        due += chance.expovariate(rate)
    await asyncio.gather(*tasks)


def p99(seconds: list[float]) -> float:
    return float(np.percentile(seconds, 99))


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.5, 2.0, 4.0])
def test_overload_makes_no_answer_slow(loop: asyncio.SelectorEventLoop, factor: float) -> None:
    load = Load()
    loop.run_until_complete(arrivals(make(loop), factor / TURN_S, 10, load))
    # Half a second of the burst before the queue counts as standing is part of this.
    # The first second is a burst like any other, until the queue is seen to stand.
    assert max(load.answered[int(1 / TURN_S) :]) < 0.06
    assert len(load.answered) > 0.97 * 10 / TURN_S
    assert max(load.refused) == 0  # at once


def test_this_test_would_see_a_queue_that_stands(loop: asyncio.SelectorEventLoop) -> None:
    load = Load()
    loop.run_until_complete(arrivals(make(loop, standing_s=100), 2 / TURN_S, 5, load))
    assert p99(load.answered) > 0.35


def test_refusals_below_capacity_are_rare(loop: asyncio.SelectorEventLoop) -> None:
    load = Load()
    loop.run_until_complete(arrivals(make(loop), 0.8 / TURN_S, 20, load))
    # Even then a queue stands by chance, once in a while.
    assert len(load.refused) < 0.001 * len(load.answered)


def test_a_burst_is_answered_in_full(loop: asyncio.SelectorEventLoop) -> None:
    admission, load = make(loop), Load()

    async def bursts() -> None:
        for _ in range(5):
            await asyncio.gather(*(ask(admission, load) for _ in range(100)))
            await asyncio.sleep(2)

    loop.run_until_complete(bursts())
    assert len(load.answered) == 500


def test_it_forgives_after_an_overload(loop: asyncio.SelectorEventLoop) -> None:
    admission, during, burst = make(loop), Load(), Load()

    async def story() -> None:
        await arrivals(admission, 3 / TURN_S, 5, during)
        await asyncio.sleep(1.5)
        await asyncio.gather(*(ask(admission, burst) for _ in range(100)))

    loop.run_until_complete(story())
    assert during.refused
    assert burst.refused == []


def test_slow_work_still_lets_one_wait(loop: asyncio.SelectorEventLoop) -> None:
    admission, load = make(loop), Load()

    async def pairs() -> None:
        for _ in range(20):
            await asyncio.gather(*(ask(admission, load, turn_s=0.3) for _ in range(2)))

    loop.run_until_complete(pairs())
    assert load.refused == []


def test_waits_are_bounded_and_cancellable(loop: asyncio.SelectorEventLoop) -> None:
    """No task waits longer than allowed, and a cancelled one does not keep the turn."""
    admission, load = make(loop, wait_s=0.5), Load()

    async def story() -> None:
        stuck = asyncio.create_task(ask(admission, Load(), turn_s=2))
        await asyncio.sleep(0)
        gone = asyncio.create_task(ask(admission, Load()))
        await asyncio.sleep(0.01)
        gone.cancel()
        await ask(admission, load)
        await stuck
        await ask(admission, load)

    loop.run_until_complete(story())
    assert load.refused == [pytest.approx(0.5)]
    assert load.answered == [pytest.approx(TURN_S)]
    assert admission.waiting == 0


def test_cheaper_answers_take_half_of_the_time_at_most() -> None:
    now = 0.0
    cheaper = CheaperAnswers(clock=lambda: now)
    refusal = ProblemError("overloaded", retry_after=1)
    request = RecommendRequest(user_id="u", session_id="s", item_id="i", count=3)
    answered = refused = 0
    for _ in range(20_000):
        now += 0.0005
        try:
            instead = cheaper.of(request, refusal)
        except ProblemError as error:
            assert error is refusal
            refused += 1
            continue
        assert instead == RecommendRequest(count=3)
        with cheaper.counted():
            now += 0.0015
        answered += 1
    assert 0.4 < answered * 0.0015 / now < 0.6
    assert refused > 0


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (RecommendRequest(user_id="u", exclude_seen=True), "overloaded"),
        (RecommendRequest(user_id="u", exclude_taken=True), "overloaded"),
        (RecommendRequest(user_id="u", explain=True), "overloaded"),
        (RecommendRequest(user_id="u"), "invalid"),
    ],
)
def test_what_needs_the_user_is_refused(request_: RecommendRequest, code: str) -> None:
    refusal = ProblemError(code)
    with pytest.raises(ProblemError) as raised:
        CheaperAnswers(clock=lambda: 0.0).of(request_, refusal)
    assert raised.value is refusal
