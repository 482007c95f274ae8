"""What people agree to, over HTTP."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from tactful.errors import StorageError
from tactful.http.asgi import Call, Reply, json_reply
from tactful.schemas.fields import to_milliseconds
from tactful.schemas.problems import ProblemError
from tactful.schemas.users import Consent, ConsentDecision, NewConsent

if TYPE_CHECKING:
    from tactful.server.platform import Platform

_decoder = msgspec.json.Decoder(NewConsent)


async def get_consent(platform: Platform, call: Call) -> Reply:
    """What a person has agreed to, with all they ever said."""
    return json_reply(await _told(platform, person_of(call)))


async def put_consent(platform: Platform, call: Call) -> Reply:
    """Record what a person said; it holds when the answer comes."""
    person = person_of(call)
    # Here, because the processes that only pass requests on know these endpoints, too.
    from tactful_privacy.errors import ParameterError
    from tactful_privacy.people.consent import Purpose, parse_purposes

    given = await call.json(_decoder)
    try:
        parse_purposes(given.purposes)
        at = None if given.at is None else to_milliseconds(given.at)
    except (ParameterError, ValueError) as error:
        raise ProblemError("invalid", str(error), field="$") from None
    if platform.permissions.is_erased(person):
        raise ProblemError("invalid", "this person was erased: who comes back needs a new id")
    purposes = {Purpose(name): agrees for name, agrees in given.purposes.items()}
    try:
        await asyncio.to_thread(
            platform.consents.record, person, purposes, source=given.source, at=at
        )
    except StorageError:
        raise ProblemError(
            "not_ready", "consent cannot be recorded now; send it again", retry_after=2
        ) from None
    return json_reply(await _told(platform, person))


def person_of(call: Call) -> str:
    """The person that a path names.

    Raises:
        ProblemError: if that is no id.
    """
    person = call.path["user_id"]
    if not 1 <= len(person) <= 256:
        raise ProblemError("not_found", "a user id has 1 to 256 characters")
    return person


async def _told(platform: Platform, person: str) -> Consent:
    consents = platform.consents.consents
    try:
        history = await asyncio.to_thread(platform.consents.history, person)
    except StorageError:
        raise ProblemError("not_ready", "consent cannot be read now", retry_after=2) from None
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
