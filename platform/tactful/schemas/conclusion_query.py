"""What can be asked to be concluded from released numbers.

Apart from how it is concluded: the processes that only pass requests on read queries, too, and
have no use for the ledger.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from tactful.schemas.fields import Moment

CONCLUSIONS = ("sum", "share", "quantile", "top", "consistent")
"""What can be concluded."""

_Exact = Annotated[str, Meta(pattern=r"^\d+(\.\d+|/0*[1-9]\d*)?$", max_length=32)]
_Keys = Annotated[str, Meta(min_length=1, max_length=4_096)]


class ConclusionQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which panes, and what of them.

    Attributes:
        since: start of the first pane.
        until: end of the span; panes start before it.
        confidence: of the intervals.
        keys: of a sum: these keys together, with commas between; else each key by itself.
        part: of a share: keys of the part.
        rest: of a share: keys of what else belongs to the whole.
        probability: of a quantile.
        k: how many of the largest keys.
    """

    since: Moment
    until: Moment
    confidence: _Exact = "0.95"
    keys: _Keys | None = None
    part: _Keys | None = None
    rest: _Keys | None = None
    probability: _Exact = "0.5"
    k: Annotated[int, Meta(ge=1, le=1_000)] = 10
