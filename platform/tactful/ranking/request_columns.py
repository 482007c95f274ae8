"""Columns of the circumstances of a request: local time, device, referrer, region, query, dwell.

A value is that of the request's context, else the latest of the visit, else that of the user's
description. The latter two are of the log, so that a replay finds them, too.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Iterable, Mapping
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import RequestContext
from tactful.catalogue.words import words

PLAIN: tuple[str, ...] = ("hour", "weekday", "device", "referrer", "dwell_now", "dwell_30m")
"""Columns with one value for all candidates."""

MATCHES: tuple[str, ...] = ("title_match", "description_match", "region_match")
"""Columns of how well a candidate matches the query and the region."""

OF_CONTEXT: tuple[str, ...] = (*(name for name in PLAIN if name != "dwell_30m"), *MATCHES)
"""Columns that the context of the request may change."""

LONGEST_DWELL_S = 1_800.0
"""Longest time on one page, seconds: beyond it nobody looks."""

_MOST_WORDS = 32
_LONGEST_QUERY = 256
_LONGEST_NAME = 512
_ZONE = re.compile(r"[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}")

# The first that occurs in the lower-case text, a class or a user agent, decides.
_DEVICES = (
    (1.0, re.compile(r"tablet|ipad|kindle|silk/")),
    (3.0, re.compile(r"\btv\b|smart-?tv|googletv|appletv|hbbtv|console|playstation|xbox")),
    (0.0, re.compile(r"mobi|phone|android|ipod")),
    (2.0, re.compile(r"desktop|laptop|\bpc\b|computer|windows|macintosh|linux|x11|cros")),
)
_OTHER_DEVICE = 4.0
_REFERRERS = (
    (3.0, re.compile(r"^e-?mail|^newsletter|(^|\.)mail\.|(^|\.)outlook\.")),
    (4.0, re.compile(r"^(cpc|ppc|paid|display|affiliate)|(^|\.)ads?($|\.)|doubleclick\.")),
    (
        2.0,
        re.compile(
            r"^social|(^|\.)(facebook|instagram|twitter|tiktok|pinterest|reddit|weibo|weixin|wechat"
            r"|linkedin|youtube)(\.|$)|(^|\.)(t\.co|x\.com|vk\.com)$"
        ),
    ),
    (
        1.0,
        re.compile(
            r"^organic|(^|\.)(search|google|bing|duckduckgo|baidu|yandex|yahoo|ecosia|naver|qwant"
            r"|startpage|kagi)(\.|$)"
        ),
    ),
)
_OTHER_SITE = 5.0


def plain_values(context: RequestContext) -> NDArray[np.float32]:
    """Return the values of `PLAIN`; NaN where nothing is known."""
    local = dt.datetime.fromtimestamp(context.at / 1000, _zone(_text(context, "time_zone")))
    now = context.asked.get("dwell_now")
    return np.array(
        [
            local.hour + local.minute / 60,
            local.weekday(),
            _device(_text(context, "device")),
            _referrer(_text(context, "referrer")),
            _seconds(now),
            _seconds(context.number("dwell_30m")),
        ],
        np.float64,
    ).astype(np.float32)


def matches_of(
    context: RequestContext, catalogue: Catalogue, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the columns `MATCHES`, shape (3, n); NaN without a query, a text or a region."""
    matches = np.full((len(MATCHES), len(rows)), np.nan, np.float32)
    query = _text(context, "query")
    wanted = frozenset(words(query[:_LONGEST_QUERY])[:_MOST_WORDS]) if query else frozenset()
    if wanted:
        described = catalogue.properties.values_of("description", rows)
        matches[0] = catalogue.lines.share_found(wanted, catalogue.title[rows].tolist())
        matches[1] = catalogue.lines.share_found(wanted, described)
    if region := _text(context, "region"):
        known = catalogue.properties.known("region")[rows]
        matches[2, known] = catalogue.properties.among("region", [region])[rows[known]]
    return matches


def intended_of(
    intent: Mapping[str, float] | None, catalogue: Catalogue
) -> NDArray[np.float32] | None:
    """Return weight and place of each category in the intent; None without an intent."""
    if not intent:
        return None
    # Number -1, an unknown category, reads the spare last element of each table.
    tables = np.zeros((2, len(catalogue.categories) + 1), np.float32)
    tables[1] = len(intent)
    write_categories(intent, catalogue, tables[0])
    best_first = sorted(intent, key=lambda name: (-intent[name], name))
    places = {name: float(place) for place, name in enumerate(best_first)}
    write_categories(places, catalogue, tables[1])
    return tables


def write_categories(
    values: Mapping[str, float],
    catalogue: Catalogue,
    table: NDArray[np.float32],
    whole: float = 1.0,
) -> None:
    """Write values by category number into a table, as shares of a whole."""
    for name, value in values.items():
        number = catalogue.category_numbers.get(name)
        if number is not None:
            table[number] = value / whole


def _text(context: RequestContext, name: str) -> str | None:
    """Return a text of the request, else the latest of the visit, else of the user."""
    for value in (context.asked.get(name), *_latest(context, name), context.properties.get(name)):
        if isinstance(value, str):
            return value
    return None


def _latest(context: RequestContext, name: str) -> Iterable[object]:
    latest = context.visit.get(f"visit_{name}")
    return [latest[0][0]] if latest and not isinstance(latest, int | float) else []


def _zone(name: str | None) -> dt.tzinfo:
    """Return a time zone; UTC for none and for an unknown one."""
    if name is None or not _ZONE.fullmatch(name):
        return dt.UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        return dt.UTC


def _device(text: str | None) -> float:
    if not text:
        return math.nan
    text = text[:_LONGEST_NAME].lower()
    return next((number for number, known in _DEVICES if known.search(text)), _OTHER_DEVICE)


def _referrer(text: str | None) -> float:
    """Return the class of a referrer: an address, or a medium such as ``organic``; 0 for none."""
    if text is None:
        return math.nan
    text = text[:_LONGEST_NAME].lower().partition("?")[0]
    text = text.removeprefix("https://").removeprefix("http://")
    if text in ("", "direct", "(none)", "none"):
        return 0.0
    host = text.partition("/")[0]
    return next((number for number, known in _REFERRERS if known.search(host)), _OTHER_SITE)


def _seconds(milliseconds: object) -> float:
    """Return a time in seconds, at most `LONGEST_DWELL_S`; NaN for no number."""
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float):
        return math.nan
    return min(max(milliseconds, 0.0), 1000 * LONGEST_DWELL_S) / 1000
