"""Query parameters of conclusions from released numbers.

They are apart from the conclusions themselves, because serving workers parse queries without
loading the ledger.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from tactful.schemas.fields import Moment

CONCLUSIONS = ("sum", "share", "quantile", "top", "consistent")
"""Kinds of conclusion."""

_Exact = Annotated[str, Meta(pattern=r"^\d+(\.\d+|/0*[1-9]\d*)?$", max_length=32)]
_Keys = Annotated[str, Meta(min_length=1, max_length=4_096)]


class ConclusionQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Span of panes, and parameters of the conclusion.

    Attributes:
        since: start of the first pane.
        until: end of the span; panes start before it.
        confidence: level of the intervals.
        keys: for a sum: these keys together, separated by commas; else each key by itself.
        part: for a share: keys of the part.
        rest: for a share: keys of the rest of the whole.
        probability: for a quantile.
        k: number of the largest keys.
    """

    since: Moment
    until: Moment
    confidence: _Exact = "0.95"
    keys: _Keys | None = None
    part: _Keys | None = None
    rest: _Keys | None = None
    probability: _Exact = "0.5"
    k: Annotated[int, Meta(ge=1, le=1_000)] = 10
