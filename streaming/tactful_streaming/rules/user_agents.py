"""Classes of user agents: crawler, automation, monitor, preview.

The patterns come from the package ``crawler-user-agents``. A robot with a browser's user agent is
not recognised here; a rate limit finds it.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Final

from tactful_streaming.rules.safe_regex import Pattern, compile_linear

_TEXT_LIMIT = 1024
_MEMORY_LIMIT: Final = 64 << 20  # bytes for each class; the 1,500 patterns take 1 MB in all

_TAGS: Final = {  # tags of the package: class; all others are crawlers
    "social-preview": "preview",
    "monitoring": "monitor",
    "http-library": "automation",
    "browser-automation": "automation",
}
_APPS: Final = frozenset({"okhttp"})  # listed as a library, but shops' Android apps use it

_UNLISTED: Final = r"bot/[0-9]|[Cc]rawler|[Ss]pider|https?://|@[\w-]+\.[a-z]"
"""Unlisted crawlers that state a name or an address, by custom; browsers do not."""

USER_AGENT_CLASSES: Final = ("crawler", "automation", "monitor", "preview")
"""Classes of clients that are no shopper's browser or app."""

_ORDER: Final = ("preview", "monitor", "automation", "crawler")  # the narrowest class wins


@lru_cache(maxsize=8192)
def classify(user_agent: str) -> str | None:
    """Return the class of a user agent; None for a browser or an app."""
    text = user_agent[:_TEXT_LIMIT].encode("utf-8", "replace")
    for name, pattern in _patterns():
        if pattern.search(text) is not None:
            return name
    return None


@cache
def _patterns() -> tuple[tuple[str, Pattern], ...]:
    from crawleruseragents import CRAWLER_USER_AGENTS_DATA  # reads a file of 600 kB: 30 ms

    patterns: dict[str, list[str]] = {name: [] for name in _ORDER}
    for entry in CRAWLER_USER_AGENTS_DATA:
        if entry["pattern"] not in _APPS:
            tags = entry.get("tags", ())
            classes = {_TAGS[tag] for tag in tags if tag in _TAGS} or {"crawler"}
            patterns[next(name for name in _ORDER if name in classes)].append(entry["pattern"])
    patterns["crawler"].append(_UNLISTED)
    return tuple((name, compile_linear("|".join(patterns[name]), _MEMORY_LIMIT)) for name in _ORDER)
