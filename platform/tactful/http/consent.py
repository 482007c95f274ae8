"""Endpoints of consent."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from tactful.http.asgi import Call, Reply, json_reply
from tactful.http.common import person_of, stored
from tactful.schemas.fields import to_milliseconds
from tactful.schemas.problems import ProblemError
from tactful.schemas.users import Consent, ConsentDecision, NewConsent
from tactful_privacy.errors import ParameterError
from tactful_privacy.people.consent import Purpose, parse_purposes

if TYPE_CHECKING:
    from tactful.server.platform import Platform

_decoder = msgspec.json.Decoder(NewConsent)


async def get_consent(platform: Platform, call: Call) -> Reply:
    """Return the consent of a user, with its history."""
    return json_reply(await _consent(platform, person_of(call)))


async def put_consent(platform: Platform, call: Call) -> Reply:
    """Record a decision of a user; it is in force when the response comes."""
    person = person_of(call)
    decision = await call.json(_decoder)
    try:
        parse_purposes(decision.purposes)
        at = None if decision.at is None else to_milliseconds(decision.at)
    except (ParameterError, ValueError) as error:
        raise ProblemError("invalid", str(error), field="$") from None
    if platform.permissions.is_erased(person):
        raise ProblemError("invalid", "this user was erased: a user who returns needs a new id")
    purposes = {Purpose(name): agrees for name, agrees in decision.purposes.items()}
    record = partial(platform.consents.record, person, purposes, source=decision.source, at=at)
    await stored(record, "consent cannot be recorded now; send it again")
    return json_reply(await _consent(platform, person))


async def _consent(platform: Platform, person: str) -> Consent:
    consents = platform.consents.consents
    read = partial(platform.consents.history, person)
    history = await stored(read, "consent cannot be read now")
    return Consent(
        person=person,
        allowed=sorted(platform.permissions.of_key(person)),
        said={str(purpose): agrees for purpose, agrees in consents.said(person).items()},
        default=sorted(consents.default),
        history=[
            ConsentDecision(
                version=decision.version,
                purposes={str(purpose): agrees for purpose, agrees in decision.purposes.items()},
                at=decision.at,
                source=decision.source,
            )
            for decision in history
        ],
    )
