"""Descriptions of users that other programs send part by part.

A description of a user replaces the earlier one, but a message of another program names some traits
only. So they are merged with the present description, which the engine knows some milliseconds
after it was accepted; until then the latest ones are kept here.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from typing import Any

from tactful.sources.translate import Described

_KEPT_MS = 10_000
_MOST = 10_000
_DECISION = "consent."


class UserTraits:
    """Merges traits into descriptions. Used from the event loop only.

    ``_latest  {"ada": (1772366400000, {"plan": "gold", "country": "GB"})}``, oldest first
    """

    def __init__(
        self, described: Callable[[str], Mapping[str, Any]], *, clock: Callable[[], int]
    ) -> None:
        """`described` returns the present properties of a user; `clock` epoch milliseconds."""
        self._described = described
        self._clock = clock
        self._latest: collections.OrderedDict[str, tuple[int, dict[str, Any]]] = (
            collections.OrderedDict()
        )

    def merged(self, new: Described) -> dict[str, Any]:
        """Return the whole description of a user with new traits; those that are None are removed.

        Decisions about consent are not repeated: a later one may have been recorded elsewhere.
        """
        now = self._clock()
        self._drop(now)
        latest = self._latest.pop(new.user_id, None)
        before = self._described(new.user_id) if latest is None else latest[1]
        properties = {
            name: value
            for name, value in {**before, **new.properties}.items()
            if value is not None and (name in new.properties or not name.startswith(_DECISION))
        }
        self._latest[new.user_id] = (now, properties)
        return properties

    def _drop(self, now: int) -> None:
        """Drop descriptions that the engine knows by now."""
        latest = self._latest
        while latest and (len(latest) >= _MOST or next(iter(latest.values()))[0] < now - _KEPT_MS):
            latest.popitem(last=False)
