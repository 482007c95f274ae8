"""The list that everybody gets, for whom no history may be read.

Apart from `tactful.subjects.permissions`, which says for whom that is: the processes that answer requests
are told, and have no use for the stores of consent.
"""

from __future__ import annotations

import msgspec

from tactful.schemas.recommendations import RecommendRequest

NOT_PERSONALISED = "this person has not agreed to personalisation: the list everybody gets"
"""Said with a list for somebody whose history must not be read."""


def for_everybody(request: RecommendRequest) -> RecommendRequest:
    """The same request by nobody in particular: page and filters count, no history is read."""
    return msgspec.structs.replace(request, user_id=None, device_id=None, session_id=None)
