"""Data to replay foresight on: invoices of `online_retail`, and pages of a clickstream."""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.federated.families import bought_lines
from benchmarks.quality.sources import fetch_wheel
from tactful_federated.device.event_store import StoredVisit
from tactful_federated.device.triggers import Trigger
from tactful_federated.model.tokens import Vocabulary
from tactful_federated.simulation.foresights import History

THRESHOLD, REARM = 0.3, 0.2
_CALIBRATED_FROM = datetime(2011, 8, 1, tzinfo=UTC).timestamp()
_ASKED_FROM = datetime(2011, 10, 1, tzinfo=UTC).timestamp()
_KEPT_FROM = 50
_DAYS, _FAMILIES, _STEPS = 14.0, 20, 3
_PAGES = ("add_to_cart", "cart", "payment_details", "purchase", "support_chat", "wishlist_add")
_CLICKSTREAM = "retentioneering/datasets/ecom.csv.gz"


@dataclass(frozen=True)
class Replayed:
    """Data to replay: histories of training, of calibration, and of the people who are asked."""

    name: str
    vocabulary: Vocabulary
    triggers: list[Trigger]
    training: list[History]
    calibrating: list[History]
    asked: list[History]


def online_retail(path: Path, quick: bool) -> Replayed:
    """Read invoices as visits; odd customers calibrate, even ones are asked."""
    lines = bought_lines(path)
    lines = lines.assign(at=lines["invoice_ts"].astype("datetime64[s]").astype("int64"))
    early = lines[lines["at"] < _CALIBRATED_FROM]
    counts = early["family"].value_counts()
    vocabulary = Vocabulary.from_catalogue(counts[counts >= _KEPT_FROM].index.astype(str))
    people = early.groupby("family")["customer_id"].nunique().sort_values(ascending=False)
    wanted = [name for name in people.index.astype(str) if name in {*vocabulary.categories}]
    invoices = lines.groupby(["customer_id", "invoice_no"], sort=False).agg(
        at=("at", "first"), families=("family", list)
    )
    by_person: defaultdict[int, list[tuple[float, list[str]]]] = defaultdict(list)
    known = {*vocabulary.categories}
    for (customer, _), at, families in invoices.itertuples():
        kept = [name for name in families if name in known]
        if kept:
            by_person[int(customer)].append((float(at), kept))
    end = float(lines["at"].max())
    training, calibrating, asked = list[History](), list[History](), list[History]()
    for customer in np.random.default_rng(1).permutation(sorted(by_person)).tolist():
        visits = by_person[customer]
        before = [visit for visit in visits if visit[0] < _CALIBRATED_FROM]
        training.append(_history(before, _CALIBRATED_FROM))
        since, until, group = (
            (_CALIBRATED_FROM, _ASKED_FROM, calibrating)
            if customer % 2
            else (_ASKED_FROM, end, asked)
        )
        group.append(_history([visit for visit in visits if visit[0] < until], until, since))
    return Replayed(
        "online_retail",
        vocabulary,
        _triggers(wanted[:_FAMILIES], days=_DAYS),
        training,
        [each for each in calibrating if each.start <= len(each.visits)][: 60 if quick else 600],
        [each for each in asked if each.start <= len(each.visits)][: 60 if quick else 700],
    )


def clickstream(quick: bool) -> Replayed:
    """Read pages as visits of one category; of people 300 train, 120 calibrate, 180 are asked."""
    with zipfile.ZipFile(fetch_wheel("retentioneering==5.2.4")) as wheel:
        text = gzip.decompress(wheel.read(_CLICKSTREAM)).decode()
    by_person: defaultdict[str, list[tuple[float, list[str]]]] = defaultdict(list)
    for row in sorted(csv.DictReader(io.StringIO(text)), key=lambda row: row["timestamp"]):
        at = datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC).timestamp()
        by_person[row["user_id"]].append((at, [row["event"]]))
    end = max(visits[-1][0] for visits in by_person.values())
    names = {name for visits in by_person.values() for _, (name,) in visits}
    histories = [_history(by_person[person], end) for person in sorted(by_person)]
    shuffled = [histories[n] for n in np.random.default_rng(1).permutation(len(histories))]
    return Replayed(
        "clickstream",
        Vocabulary.from_catalogue(names),
        _triggers(_PAGES, steps=_STEPS),
        shuffled[:300],
        shuffled[300 : 330 if quick else 420],
        shuffled[420 : 450 if quick else 600],
    )


def _triggers(names: Sequence[str], **ahead: float) -> list[Trigger]:
    return [
        Trigger(
            name,
            (name,),
            threshold=THRESHOLD,
            rearm=REARM,
            most_per_day=1_000_000,
            **ahead,  # type: ignore[arg-type]
        )
        for name in names
    ]


def _history(
    visits: Sequence[tuple[float, list[str]]], until: float, since: float | None = None
) -> History:
    stored = [StoredVisit(number, at, names) for number, (at, names) in enumerate(visits, 1)]
    # Questions begin after the first visit since then.
    start = 1 if since is None else sum(visit.at < since for visit in stored) + 1
    return History(stored, until, start)
