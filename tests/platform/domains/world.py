"""Two made-up domains, a shop and a magazine, whose people have one of four tastes in both."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tests.platform.shop import definitions, rename_version, write_log
from tests.platform.support import Live, small_settings

from tactful.config.domains import DomainSettings
from tactful.config.engine import EngineSettings
from tactful.config.settings import Settings
from tactful.domains.keys import make_keys
from tactful.metadata.crossed_profiles import CrossedProfile, save_profile
from tactful.metadata.store import open_metadata
from tactful.ranking.model import Pointer, version_directory, write_pointer
from tactful.recall.index import RecallIndex
from tactful.recommend.build import build
from tactful.server.platform import Platform
from tactful.subjects.consent import open_consents
from tactful.subjects.crossings import training_profiles
from tactful.subjects.permissions import Permissions
from tactful.training.crossings import CrossingData
from tactful.training.options import TrainingOptions
from tactful.training.train import train
from tactful.util.signing import open_signing_key, sign_directory
from tactful_streaming.contract.log_entries import Entry, Event, Item

TASTES, ITEMS, PEOPLE = 4, 40, 100
NEW = "new-3"  # of taste 3: known to the shop, and new to the magazine
DAY = 86_400_000
NOW = int(time.time() * 1000)
OPTIONS = TrainingOptions(label_days=10, lists=120, rounds=4, patience=4, threads=1, shown=0)


def item(domain: str, number: int) -> str:
    return f"{domain}-{number}"


def taste_of(name: str) -> int:
    """Taste of a person, or of an item: its number."""
    return int(name.rsplit("-", 1)[1]) % TASTES


def entries(domain: str, people: list[str], seed: int) -> list[Entry]:
    """Items, and purchases of people by their tastes; more of the first taste."""
    rng = np.random.default_rng(seed)
    found: list[Entry] = [
        Item(item_id=item(domain, it), timestamp=NOW - 30 * DAY, properties={"title": f"item {it}"})
        for it in range(ITEMS)
    ]
    events = []
    for person in people:
        for visit in range(6 if taste_of(person) == 0 else 3):
            at = NOW - int(rng.integers(DAY, 20 * DAY))
            own = rng.choice(ITEMS // TASTES, 3, replace=False) * TASTES + taste_of(person)
            events += [
                Event(
                    event_id=f"{domain}:{person}:{visit}:{number}",
                    type="purchase",
                    timestamp=at + 1000 * place,
                    user_id=person,
                    session_id=f"{person}:{visit}",
                    item_id=item(domain, number),
                )
                for place, number in enumerate(own.tolist())
            ]
    return found + sorted(events, key=lambda event: event.timestamp)


@dataclass
class Domain:
    """One installation, and its server while it runs."""

    name: str
    settings: Settings
    live: Live | None = None

    @property
    def http(self) -> Any:
        assert self.live is not None
        return self.live.http

    def consent(self, person: str, agrees: bool = True, pair: str = "shop>magazine") -> None:
        answer = self.http.put(f"/v1/users/{person}/consent", json={"purposes": {pair: agrees}})
        assert answer.status_code == 200, answer.text

    def shown(self, person: str, count: int = 8) -> list[str]:
        answer = self.http.post("/v1/recommend", json={"user_id": person, "count": count})
        assert answer.status_code == 200, answer.text
        return [it["item_id"] for it in answer.json()["items"]]

    def train(self, version: str) -> RecallIndex:
        """Train from the log as it is, beside no server."""
        settings, models = self.settings, self.settings.models
        place = version_directory(models, version)
        with closing(open_metadata(settings.storage.data / "metadata.db")) as metadata:
            consents = open_consents(settings, metadata, clock=lambda: NOW).consents
            kept = training_profiles(metadata, Permissions(consents), settings.domains)
        log = write_log(self.settings.storage.data / "log", [])
        train(log, definitions(), place, OPTIONS, crossing=CrossingData(settings.domains, kept))
        log.close()
        rename_version(place, version)
        sign_directory(place, open_signing_key(settings.storage.data))
        write_pointer(models, Pointer(version=version))
        return RecallIndex.load(place / "index")

    @contextmanager
    def served(self, workers: int = 0) -> Iterator[Domain]:
        name = "tactful.recommend.build:build"
        platform = Platform.open(self.settings, build)
        with Live(platform, workers=workers, build=name) as self.live:
            yield self


def make_domains(folder: Path, people: dict[str, list[str]]) -> tuple[Domain, Domain]:
    """Make two installations that know each other, with the events of their people in the logs."""
    made, public = {}, {}
    for name in ("shop", "magazine"):
        data = folder / name / "data"
        data.mkdir(parents=True)
        write_log(data / "log", entries(name, people[name], len(name))).close()
        public[name] = make_keys(data / "domain.keys", NOW)[0].public
    for name, other in (("shop", "magazine"), ("magazine", "shop")):
        settings = small_settings(folder / name)
        domains = DomainSettings(
            name=name, peers={other: [public[other]]}, dimensions=4, minimum_people=40
        )
        engine = replace(settings.engine, features=EngineSettings().features)
        made[name] = Domain(name, replace(settings, domains=domains, engine=engine))
    return made["shop"], made["magazine"]


def cross(shop: Domain, magazine: Domain, person: str) -> Any:
    """Carry a profile from the one to the other, as the device does."""
    sent = shop.http.post("/v1/domains/magazine/tokens", json={"user_id": person})
    assert sent.status_code == 200, sent.text
    body = {"user_id": person, "token": sent.json()["token"]}
    taken = magazine.http.post("/v1/domains/shop/profiles", json=body)
    assert taken.status_code == 200, taken.text
    return taken.json()


def prepare(folder: Path) -> tuple[Domain, Domain]:
    """Make both domains, with models; the profiles of all known people crossed."""
    known = [f"p-{number}" for number in range(PEOPLE)]
    shop, magazine = make_domains(folder, {"shop": [*known, NEW], "magazine": known})
    index = shop.train("1")
    agreed = {person: {"shop>magazine": True} for person in known}
    taken = Counter[tuple[str, str]]()
    for entry in entries("shop", known, len("shop")):
        if isinstance(entry, Event):
            taken[entry.user_id or "", entry.item_id or ""] += 1
    with closing(open_metadata(magazine.settings.storage.data / "metadata.db")) as metadata:
        store = open_consents(magazine.settings, metadata, clock=lambda: NOW)
        store.record_many(agreed, source="test")
        for person in known:
            own = {it: count for (of, it), count in taken.items() if of == person}
            rows = np.array(index.item_ids.rows_of([*own]), np.int64)
            assert index.crossings.embedding is not None and index.crossings.own is not None
            vector = index.crossings.embedding.vector(rows, np.array([*own.values()]))
            assert vector is not None
            version = index.crossings.own.version
            crossed = CrossedProfile(person, "shop", version, NOW, tuple(vector.tolist()))
            assert save_profile(metadata, crossed, f"token of {person}", NOW)
    magazine.train("1")
    return shop, magazine
