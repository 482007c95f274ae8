"""Generated sets with one trait each that the public sets lack; asked for by `--only` alone.

They are no evidence of how good lists are, but show what a recommender cannot do at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.dataset import DAY, Dataset, from_events

_BEGIN = 1_700_000_000_000
_HOUR = 3_600_000
_Event = dict[str, Any]


def newspaper(quick: bool) -> Dataset:
    """Six days of views by device: articles come every hour and live for half a day.

    Readers prefer some of twelve topics, and stay with the topic of the article before.
    """
    draw = np.random.default_rng(0)
    days, topics, visits = 6, 12, 4_000 if quick else 9_000
    count = 60 * (days + 2)
    born = _BEGIN + np.sort(draw.random(count) * (days + 2) - 2) * DAY
    topic = draw.integers(topics, size=count)
    quality = draw.lognormal(0, 1.2, count)
    people = visits // 6
    taste = draw.dirichlet(np.full(topics, 0.4), people)
    activity = draw.pareto(1.3, people) + 0.1
    activity /= activity.sum()
    events: list[_Event] = []
    for visit in range(visits):
        at, person = _BEGIN + int(draw.random() * days * DAY), int(draw.choice(people, p=activity))
        read: list[int] = []
        for _ in range(min(1 + int(draw.geometric(0.35)), 20)):
            age = (at - born) / _HOUR
            weights = np.where(age > 0, quality * np.exp(-np.maximum(age, 0) / 14), 0.0)
            weights *= 0.05 + topics * taste[person][topic]
            if read:
                weights *= np.where(topic == topic[read[-1]], 5, 1)
            weights[read] = 0.0
            read.append(_drawn(draw, weights))
            who = {"device_id": f"d{person}", "session_id": f"v{visit}"}
            events.append({"type": "view", "timestamp": at, "item_id": f"a{read[-1]}", **who})
            at += 2_000 + int(draw.exponential(90_000))
    items = [
        {"item_id": f"a{row}", "category": f"topic-{topic[row]}", "timestamp": int(born[row])}
        for row in range(count)
    ]
    return from_events("newspaper", _in_order(events), items=items)


def music(quick: bool) -> Dataset:
    """Plays without ids of visits: albums in their order, favourites again and again."""
    draw = np.random.default_rng(1)
    genres, people, visits = 10, 400, 2_500 if quick else 5_000
    genre = np.repeat(draw.integers(genres, size=150), draw.integers(1, 4, 150))
    lengths = draw.integers(6, 13, len(genre))
    starts = np.cumsum(lengths) - lengths
    album = np.repeat(np.arange(len(genre)), lengths)
    known = draw.zipf(1.6, len(genre)).clip(1, 400).astype(np.float64)
    taste = draw.dirichlet(np.full(genres, 0.3), people)
    plays = np.zeros((people, len(album)))
    events: list[_Event] = []
    for _ in range(visits):
        person, at, song = int(draw.integers(people)), _BEGIN + int(draw.random() * 45 * DAY), -1
        for _ in range(1 + int(draw.geometric(0.12))):
            goes_on = song >= 0 and song + 1 < len(album) and album[song] == album[song + 1]
            chance = draw.random()
            if goes_on and chance < 0.55:
                song += 1
            elif chance < 0.8 and plays[person].any():
                song = _drawn(draw, plays[person])
            else:
                chosen = _drawn(draw, known * taste[person][genre])
                later = int(draw.integers(lengths[chosen])) if draw.random() < 0.5 else 0
                song = int(starts[chosen]) + later
            plays[person, song] += 1
            who = {"user_id": f"u{person}", "item_id": f"t{song}"}
            events.append({"type": "x.play", "timestamp": at, **who})
            at += int(draw.integers(150_000, 280_000))
    items = [
        {"item_id": f"t{song}", "category": f"genre-{genre[album[song]]}"}
        for song in range(len(album))
    ]
    return from_events("music", _in_order(events), items=items)


def travel(quick: bool) -> Dataset:
    """Six days of clicks on hotels: a visit is about one city and one budget, in no order."""
    draw = np.random.default_rng(2)
    cities, people, visits = 120, 9_000, 7_000 if quick else 14_000
    city = np.repeat(np.arange(cities), draw.integers(5, 60, cities))
    price = draw.lognormal(4.3, 0.5, len(city))
    quality = draw.lognormal(0, 1, len(city))
    popular = draw.dirichlet(np.full(cities, 0.5))
    goal: dict[int, int] = {}
    events: list[_Event] = []
    for visit in range(visits):
        person, at = int(draw.integers(people)), _BEGIN + int(draw.random() * 6 * DAY)
        if person not in goal or draw.random() < 0.3:
            goal[person] = int(draw.choice(cities, p=popular))
        budget = draw.lognormal(4.3, 0.4)
        fit = np.exp(-((np.log(price / budget) / 0.35) ** 2))
        weights = np.where(city == goal[person], quality * fit, 0.0)
        seen: list[int] = []
        for _ in range(1 + int(draw.geometric(0.3))):
            again = len(seen) > 0 and draw.random() < 0.25
            hotel = seen[int(draw.integers(len(seen)))] if again else _drawn(draw, weights)
            if hotel not in seen[-1:]:
                seen.append(hotel)
                who = {"user_id": f"u{person}", "session_id": f"s{visit}"}
                events.append({"type": "click", "timestamp": at, "item_id": f"h{hotel}", **who})
            at += 3_000 + int(draw.exponential(60_000))
    return from_events("travel", _in_order(events))


def _drawn(draw: np.random.Generator, weights: NDArray[np.float64]) -> int:
    return int(np.searchsorted(np.cumsum(weights), draw.random() * weights.sum(), side="right"))


def _in_order(events: list[_Event]) -> list[_Event]:
    return sorted(events, key=lambda event: int(event["timestamp"]))


GENERATED: Mapping[str, Callable[[bool], Dataset]] = {
    "newspaper": newspaper,
    "music": music,
    "travel": travel,
}
"""How to generate each set, quick or not."""
