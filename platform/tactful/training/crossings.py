"""Learn the directions of the profiles of this domain, and bridges from the profiles of others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from tactful.config.domains import DomainSettings
from tactful.config.privacy import DAY_MS
from tactful.domains.bridge import Embedding, fit_bridge, fit_embedding
from tactful.errors import ModelError
from tactful.metadata.crossed_profiles import CrossedProfile
from tactful.recall.crossings import SEEN, Crossings, OwnProfiles, TrainedBridge
from tactful.recall.index import RecallIndex
from tactful.training.history import History
from tactful_privacy.people.consent import crossing

_TAKING = ("add_to_cart", "purchase")
FEWEST_TAKERS: Final = 5
"""An item that fewer users took has no part: it would reveal choices of single users."""

_MOST_ITEMS = 5_000
_ALIKE = 0.9  # least cosine between two versions of all directions that count as the same

_Directions = tuple[OwnProfiles, Embedding]


@dataclass(frozen=True)
class CrossingData:
    """Facts for a training about profiles that cross."""

    settings: DomainSettings
    profiles: Sequence[CrossedProfile] = ()  # of users or devices that consent
    previous: RecallIndex | None = None  # index of the champion
    trained_at: int = 0  # time at which the training began, epoch milliseconds
    erased_at: int = 0  # time of the latest completed erasure, epoch milliseconds; 0 for none
    # returns whether a profile may cross as a pair, by the keys of a user: that of the history
    # first. Without it no device with a user has a part.
    crosses: Callable[[str, Sequence[str]], bool] = lambda pair, keys: False


def learn_crossings(history: History, data: CrossingData) -> Crossings:
    """Learn from a whole history; the directions stay those of the champion while they are young.

    After an erasure they are computed anew, without the erased user, and turned towards those of
    the champion. Nothing is learned without a name of the domain, and not from too few people.
    """
    if not data.settings.name:
        return Crossings()
    directions = champion = _of_champion(history, data)
    if champion is None or champion[0].trained_at < data.erased_at:
        directions = _directions(history, data)
        if champion is not None and directions is not None:
            directions = _turned(directions, champion)
    own, embedding = directions or (None, None)
    by_embedding: defaultdict[tuple[str, str], dict[str, CrossedProfile]] = defaultdict(dict)
    for profile in data.profiles:
        by_embedding[profile.releasing, profile.embedding][profile.person] = profile
    bridges = tuple(
        bridge
        for _, profiles in sorted(by_embedding.items())
        if (bridge := _bridge(history, profiles, data)) is not None
    )
    return Crossings(own, embedding, bridges)


def _of_champion(history: History, data: CrossingData) -> _Directions | None:
    """Return the directions of the champion by the rows of the history, if they are young."""
    if data.previous is None:
        return None
    own, embedding = data.previous.crossings.own, data.previous.crossings.embedding
    if own is None or embedding is None:
        return None
    age = history.until - own.made_at
    same = embedding.directions.shape[1] == data.settings.dimensions
    if not same or age > data.settings.embedding_days * DAY_MS:
        return None
    rows = data.previous.item_ids.rows_of(history.item_ids)
    here = np.array([row is not None for row in rows], np.bool_)
    there = np.array([row for row in rows if row is not None], np.int64)
    rarity = np.zeros(len(rows), np.float32)
    directions = np.zeros((len(rows), data.settings.dimensions), np.float32)
    rarity[here], directions[here] = embedding.rarity[there], embedding.directions[there]
    return own, Embedding(rarity, directions)


def _turned(directions: _Directions, champion: _Directions) -> _Directions:
    """Turn new directions towards those of the champion; keep its version if they are alike.

    So profiles before and after an erasure can be compared. All lengths and angles stay those of
    the new directions, which no erased user has a part in (orthogonal Procrustes problem:
    Schönemann, 1966).
    """
    own, embedding = directions
    new, old = embedding.directions, champion[1].directions.astype(np.float64)
    left, common, right = np.linalg.svd(new.T @ old)
    if common.sum() < _ALIKE * np.linalg.norm(new) * np.linalg.norm(old) or not old.any():
        return directions
    own = msgspec.structs.replace(champion[0], trained_at=own.trained_at)
    return own, Embedding(embedding.rarity, new @ (left @ right))


def _directions(history: History, data: CrossingData) -> _Directions | None:
    """Find the directions of all histories; none from too few users or items, or equal ones."""
    settings = data.settings
    person = history.person_of_visit[history.session]
    known = np.flatnonzero(person >= 0)
    taking = np.array([kind in _TAKING for kind in history.types], np.bool_)
    weight = np.where(taking[history.kind[known]], 1.0, SEEN)
    people, row = np.unique(person[known], return_inverse=True)
    shape = len(people), len(history.item_ids)
    if shape[0] < settings.minimum_people or min(shape) <= settings.dimensions:
        return None
    taken = csr_matrix((weight, (row, history.item[known])), shape=shape)
    taken.sum_duplicates()
    try:
        embedding = fit_embedding(taken, settings.dimensions, fewest=FEWEST_TAKERS)
    except ModelError:
        return None
    # Other domains and their browsers read the version: it must not be a time of an event.
    content = embedding.directions.tobytes() + embedding.rarity.tobytes()
    version = blake2b(content, digest_size=8).hexdigest()
    return OwnProfiles(version, history.until, data.trained_at), embedding


def _bridge(
    history: History, profiles: Mapping[str, CrossedProfile], data: CrossingData
) -> TrainedBridge | None:
    """Fit a bridge to profiles of one embedding, by person; None from too few of them."""
    first = next(iter(profiles.values()))
    pair = crossing(first.releasing, data.settings.name)
    users: defaultdict[str, set[str]] = defaultdict(set)
    for user, device in history.met or ():
        users[device].add(user)
    numbers: dict[int, CrossedProfile] = {}
    for person, profile in profiles.items():
        number = _person(history, person, users.get(person, frozenset()), pair, data)
        if number >= 0 and len(profile.vector) == len(first.vector):
            numbers[number] = profile
    if len(numbers) < data.settings.minimum_people:
        return None
    place = np.full(len(history.persons), -1, np.int64)
    place[[*numbers]] = np.arange(len(numbers))
    rows = place[history.person_of_visit[history.session]]
    rows[history.person_of_visit[history.session] < 0] = -1
    own = np.flatnonzero(rows >= 0)
    shape = len(numbers), len(history.item_ids)
    taken = csr_matrix((np.ones(len(own)), (rows[own], history.item[own])), shape=shape)
    taken.sum_duplicates()
    items = common_items(taken)
    if not len(items):
        return None
    vectors = np.array([profile.vector for profile in numbers.values()])
    bridge = fit_bridge(vectors, taken[:, items])
    return TrainedBridge(first.releasing, first.embedding, len(numbers), items, bridge)


def _person(
    history: History, key: str, users: Collection[str], pair: str, data: CrossingData
) -> int:
    """Return the number of the person to whose history a profile belongs; -1 for none.

    The profile of a device without a history of its own belongs to the user whom it met, if that
    is one user, who agreed to the pair, too. A user who refused it has no part by any device.
    """
    number = history.persons.get(key, -1)
    keys = [key, *sorted(users)]
    if number < 0 and len(users) == 1:
        keys.reverse()
        number = history.persons.get(keys[0], -1)
    return number if number >= 0 and (not users or data.crosses(pair, keys)) else -1


def common_items(taken: csr_matrix) -> NDArray[np.int32]:
    """Return the items that enough users took, the most taken if there are many; ascending."""
    takers = np.bincount(taken.indices, minlength=taken.shape[1])
    items = np.argsort(-takers, kind="stable")[:_MOST_ITEMS]
    return np.sort(items[takers[items] >= FEWEST_TAKERS]).astype(np.int32)
