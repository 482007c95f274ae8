"""Endpoints of profiles that cross between domains."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import caller_of, opts_out, stored
from tactful.schemas.problems import ProblemError
from tactful.schemas.subjects.domains import (
    Crossed,
    Domains,
    NewCrossing,
    ProfileOwner,
    ProfileToken,
)
from tactful_privacy.people.consent import NOTHING

if TYPE_CHECKING:
    from tactful.server.domains import Claimed
    from tactful.server.platform import Platform

_UNAVAILABLE = "profiles cannot be read or kept now"
_owner = msgspec.json.Decoder(ProfileOwner)
_crossing = msgspec.json.Decoder(NewCrossing)


async def _post_token(platform: Platform, call: Call) -> Reply:
    owner = await call.json(_owner)
    claimed = _checked(platform, call, owner)
    work = partial(platform.domains.issue, call.path["domain"], owner, claimed, by=caller_of(call))
    return json_reply(await stored(work, _UNAVAILABLE))


async def _post_profile(platform: Platform, call: Call) -> Reply:
    new = await call.json(_crossing)
    claimed = _checked(platform, call, new)
    work = partial(platform.domains.take, call.path["domain"], new, claimed, by=caller_of(call))
    return json_reply(await stored(work, _UNAVAILABLE))


async def _get_domains(platform: Platform, call: Call) -> Reply:
    return json_reply(await stored(platform.domains.describe, _UNAVAILABLE))


def _checked(platform: Platform, call: Call, owner: ProfileOwner) -> Claimed:
    """Check what a browser key may do; return the purposes that the request claims, if any."""
    if call.public:
        if owner.user_id is not None:
            raise ProblemError(
                "missing_scope",
                "`user_id` needs a key with the scope 'recommend', which belongs on a server",
                field="$.user_id",
            )
        platform.rates.count(call.browser_key, 0, [owner.device_id])
    return NOTHING if opts_out(platform, call) else None


DOMAIN_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "POST",
        "/v1/domains/{domain}/tokens",
        "Fetch the profile of a person for another domain",
        _post_token,
        details=(
            "A vector of the history here, signed by this domain and encrypted for the other one; "
            "it names no item, event or user. The device of the person hands it over within five "
            "minutes. The user whose history it is, or the device if it has no user, must have "
            "consented to the pair, such as `shop>magazine`. A browser key names the device only. "
            "It is recorded who asked."
        ),
        scope="recommend",
        browser=True,
        body=ProfileOwner,
        answer=ProfileToken,
        problems=("invalid", "not_found", "no_consent", "not_ready"),
    ),
    Endpoint(
        "POST",
        "/v1/domains/{domain}/profiles",
        "Take over the profile of a person from another domain",
        _post_profile,
        details=(
            "The token comes from `POST /v1/domains/{domain}/tokens` of that domain, and is good "
            "once. The user, or the device if it has no user, must have consented to the pair "
            "here, too. From then on, recommendations to a person with little history here follow "
            "from the profile, as soon as enough profiles crossed to learn from; a withdrawal "
            "under the same id deletes it at once."
        ),
        scope="recommend",
        browser=True,
        body=NewCrossing,
        answer=Crossed,
        problems=("invalid", "not_found", "no_consent", "not_ready"),
    ),
    Endpoint(
        "GET",
        "/v1/domains",
        "Read the name and keys of this domain, and the other domains",
        _get_domains,
        details="Public keys, and the versions of profiles that the present model reads.",
        scope="recommend",
        answer=Domains,
        problems=("not_ready",),
    ),
)
