"""ID tokens at the API: who is let in, who is not, and what an issuer may do meanwhile."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey
from tests.platform.http.issuer import CLIENT, Issuer, new_key
from tests.platform.support import Live, build, small_settings

from tactful.config.load import load_settings
from tactful.config.server import OidcSettings
from tactful.errors import ConfigError
from tactful.http.oidc import TokenVerifier
from tactful.metadata.key_cache import ApiKey
from tactful.schemas.problems import ProblemError
from tactful.server.platform import Platform

GROUPS = {"admin_groups": "shop-admins", "analyst_groups": "shop-analysts, board"}


@pytest.fixture(params=[0, pytest.param(1, marks=pytest.mark.slow)], ids=["process", "worker"])
def workers(request: pytest.FixtureRequest) -> int:
    """Number of worker processes; a server with one takes seconds to start."""
    count: int = request.param
    return count


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with Issuer() as running:
        yield running


def settings_of(issuer: Issuer, **changes: str) -> OidcSettings:
    values = {"issuer": issuer.url, "client_id": CLIENT, "monitor_groups": "board", **GROUPS}
    return OidcSettings(**{**values, **changes})


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def verifier(issuer: Issuer, clock: Clock | None = None, **changes: str) -> TokenVerifier:
    return TokenVerifier(
        settings_of(issuer, **changes),
        clock=lambda: round(time.time() * 1_000),
        monotonic=clock or Clock(),
    )


def check(checked: TokenVerifier, token: str) -> ApiKey:
    return asyncio.run(checked.check(token))


def refusal(checked: TokenVerifier, token: str) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        check(checked, token)
    assert token not in str(caught.value)
    return caught.value


# People and rights.


def test_groups_give_scopes(issuer: Issuer) -> None:
    checked = verifier(issuer)
    ann = check(checked, issuer.token("ann"))
    assert (ann.person, ann.id) == ("ann@shop.example", "")
    assert ann.scopes == {"admin"}
    assert check(checked, issuer.token("bob")).scopes == {"analyst"}
    both = check(checked, issuer.token("bob", groups=["board", "shop-admins"]))
    assert both.scopes == {"admin", "analyst", "monitor"}
    assert check(checked, issuer.token(groups="board")).scopes == {"analyst", "monitor"}


@pytest.mark.parametrize("groups", [None, [], ["visitors"], ["SHOP-ADMINS"], 7, [7, None], {}, ""])
def test_a_person_without_a_known_group_has_no_rights(issuer: Issuer, groups: Any) -> None:
    assert refusal(verifier(issuer), issuer.token(groups=groups)).kind.code == "missing_scope"


def test_groups_may_lie_deeper_in_a_token(issuer: Issuer) -> None:
    checked = verifier(issuer, groups_claim="realm_access.roles")
    token = issuer.token(groups=None, realm_access={"roles": ["shop-admins"]})
    assert check(checked, token).scopes == {"admin"}
    assert refusal(checked, issuer.token(realm_access="x")).kind.code == "missing_scope"
    named = verifier(issuer, groups_claim="https://shop.example/groups")
    claims: dict[str, Any] = {"https://shop.example/groups": ["shop-admins"]}
    token = issuer.token(groups=None, **claims)
    assert check(named, token).scopes == {"admin"}


def test_a_name_can_imitate_no_key_and_no_other_person(issuer: Issuer) -> None:
    checked = verifier(issuer)
    cases: dict[str, dict[str, Any]] = {
        "key_0f3a9c21": {"email": None, "sub": "key 0f3a9c21"},
        "17": {"email": "ann@shop.example", "email_verified": False},
        "19": {"email": "ann@shop.example", "email_verified": "false", "sub": "19"},
        "18": {"email": ["x"], "sub": "18"},
        "a_b@c": {"email": "a\nb@c"},
        "é" * 200: {"email": "é" * 500},
    }
    for name, claims in cases.items():
        assert check(checked, issuer.token(**claims)).person == name


# Tokens that somebody made up. Each of them was accepted by some library once.


def forged(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    parts = (json.dumps(header).encode(), json.dumps(claims).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def unsigned(issuer: Issuer) -> str:
    return forged({"alg": "none", "kid": "first"}, issuer.claims())


def unsigned_in_capitals(issuer: Issuer) -> str:
    return forged({"alg": "NONE", "typ": "JWT"}, issuer.claims())


def signed_with_the_public_key(issuer: Issuer) -> str:
    """HS256 whose secret is the public key, which everybody can read."""
    import hashlib
    import hmac

    pem = issuer.keys[0].as_pem(private=False)
    token = forged({"alg": "HS256", "typ": "JWT", "kid": "first"}, issuer.claims())
    signed = token.rpartition(".")[0]
    code = hmac.new(pem, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(code).rstrip(b'=').decode()}"


def with_a_secret_of_its_own(issuer: Issuer) -> str:
    return jwt.encode({"alg": "HS256"}, issuer.claims(), OctKey.generate_key(256), ["HS256"])


def by_its_own_key(issuer: Issuer) -> str:
    key = new_key("first")
    header = {"alg": "RS256", "kid": "first", "jwk": key.as_dict(private=False)}
    return jwt.encode(header, issuer.claims(), key)


def by_an_unknown_key(issuer: Issuer) -> str:
    return issuer.token(key=new_key("another"))


def without_a_signature(issuer: Issuer) -> str:
    return issuer.token().rpartition(".")[0] + "."


def with_other_claims(issuer: Issuer) -> str:
    head, _, signature = issuer.token("bob").split(".")
    _, claims, _ = issuer.token("ann").split(".")
    return f"{head}.{claims}.{signature}"


def as_an_access_token(issuer: Issuer) -> str:
    header = {"alg": "RS256", "kid": "first", "typ": "at+jwt"}
    return jwt.encode(header, issuer.claims(), issuer.keys[0])


def with_a_critical_header(issuer: Issuer) -> str:
    return forged({"alg": "RS256", "kid": "first", "crit": ["exp"]}, issuer.claims(), b"x" * 256)


def by_another_kind_of_key(issuer: Issuer) -> str:
    key = ECKey.generate_key("P-256", {"kid": "first"})
    return jwt.encode({"alg": "ES256", "kid": "first"}, issuer.claims(), key)


@pytest.mark.parametrize(
    "make",
    [
        unsigned,
        unsigned_in_capitals,
        signed_with_the_public_key,
        with_a_secret_of_its_own,
        by_its_own_key,
        by_an_unknown_key,
        without_a_signature,
        with_other_claims,
        as_an_access_token,
        with_a_critical_header,
        by_another_kind_of_key,
    ],
    ids=lambda make: make.__name__.replace("_", " "),
)
def test_a_forged_token_is_refused(issuer: Issuer, make: Callable[[Issuer], str]) -> None:
    assert refusal(verifier(issuer), make(issuer)).kind.code == "no_key"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"aud": "another"}, "audience"),
        ({"aud": ["another", "third"]}, "audience"),
        ({"aud": None}, "audience"),
        ({"aud": [CLIENT, "another"]}, "another program"),
        ({"azp": "another"}, "another program"),
        ({"iss": "https://elsewhere.example"}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"exp": int(time.time()) - 61}, "expired"),
        ({"exp": None}, "expiry"),
        ({"exp": "tomorrow"}, "expiry"),
        ({"iat": int(time.time()) + 3_600}, "time"),
        ({"nbf": int(time.time()) + 3_600}, "time"),
        ({"sub": None}, "subject"),
        ({"sub": 17}, "subject"),
    ],
)
def test_a_token_for_others_or_another_time_is_refused(
    issuer: Issuer, changes: dict[str, Any], reason: str
) -> None:
    refused = refusal(verifier(issuer), issuer.token(**changes))
    assert refused.kind.code == "no_key"
    assert reason in str(refused)


def test_clocks_may_differ_by_a_minute(issuer: Issuer) -> None:
    now = int(time.time())
    times: list[dict[str, Any]] = [{"exp": now - 50}, {"iat": now + 50}, {"nbf": now + 50}]
    for changes in times:
        assert check(verifier(issuer), issuer.token(**changes)).person == "ann@shop.example"
    several: dict[str, Any] = {"aud": [CLIENT, "another"], "azp": CLIENT}
    assert check(verifier(issuer), issuer.token(**several)).scopes == {"admin"}


def test_a_token_ends_where_it_was_checked_before(issuer: Issuer) -> None:
    clock = Clock()
    checked = verifier(issuer, clock)
    token = issuer.token(exp=int(time.time()) - 55)
    assert check(checked, token).scopes == {"admin"}
    clock.now += 6  # the cache must not outlive the token
    past = TokenVerifier(
        settings_of(issuer), clock=lambda: round(time.time() * 1_000) + 6_000, monotonic=clock
    )
    past._checked = checked._checked
    assert "expired" in str(refusal(past, token))


@given(st.one_of(st.text(max_size=60), st.binary(max_size=60).map(lambda it: it.decode("latin-1"))))
def test_any_text_is_refused_as_a_token(text: str) -> None:
    keys = json.dumps({"keys": [KEY.as_dict(private=False)]}).encode()
    about = json.dumps({"issuer": "https://i.example", "jwks_uri": "https://i.example/k"}).encode()
    checked = TokenVerifier(
        OidcSettings(issuer="https://i.example", client_id=CLIENT, **GROUPS),
        clock=lambda: 0,
        fetch=lambda address: keys if address.endswith("/k") else about,
    )
    header = base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()
    deep = base64.urlsafe_b64encode(b"[" * 20_000).decode()
    for token in (text, f"{header}.{header}.{header}", f"{text}.{text}.{text}", f"{deep}.a.b"):
        assert refusal_code(checked, token) == "no_key"


KEY: RSAKey = new_key("first")


def refusal_code(checked: TokenVerifier, token: str) -> str:
    with pytest.raises(ProblemError) as caught:
        check(checked, token)
    return caught.value.kind.code


# The issuer and its keys.


@pytest.mark.slow
def test_keys_are_fetched_once_and_again_when_they_change() -> None:
    with Issuer() as issuer:
        clock = Clock()
        checked = verifier(issuer, clock)
        for login in ("ann", "bob", "ann"):
            check(checked, issuer.token(login))
        assert issuer.requests == ["/.well-known/openid-configuration", "/jwks"]
        former = issuer.keys[0]
        issuer.keys.append(new_key("second"))
        assert refusal_code(checked, issuer.token()) == "no_key", "it was asked a moment ago"
        clock.now += 31
        assert check(checked, issuer.token()).scopes == {"admin"}
        assert check(checked, issuer.token(key=former, nonce="x")).scopes == {"admin"}
        issuer.keys.pop(0)
        clock.now += 3_600
        assert refusal_code(checked, issuer.token(key=former)) == "no_key"
        asked = len(issuer.requests)
        for number in range(20):  # nobody makes the server ask the issuer at will
            refusal_code(checked, issuer.token(key=new_key_of(number)))
        assert len(issuer.requests) == asked


def test_nobody_waits_for_an_issuer_that_hangs_while_its_keys_are_at_hand() -> None:
    answers, hangs = threading.Event(), threading.Event()

    def fetch(address: str) -> bytes:
        if hangs.is_set():
            assert answers.wait(30)
        keys = {"keys": [KEY.as_dict(private=False)]}
        about = {"issuer": "https://i.example", "jwks_uri": "https://i.example/k"}
        return json.dumps(keys if address.endswith("/k") else about).encode()

    clock = Clock()
    checked = TokenVerifier(
        OidcSettings(issuer="https://i.example", client_id=CLIENT, **GROUPS),
        clock=lambda: round(time.time() * 1_000),
        monotonic=clock,
        fetch=fetch,
    )
    claims = {"iss": "https://i.example", "aud": CLIENT, "sub": "1", "groups": "shop-admins"}

    def token(key: RSAKey, number: int) -> str:
        now = int(time.time())
        body = {**claims, "iat": now, "exp": now + 60, "nonce": str(number)}
        return jwt.encode({"alg": "RS256", "kid": key.kid}, body, key)

    async def ask() -> None:
        await checked.check(token(KEY, 1))
        hangs.set()
        clock.now += 31
        waiting = asyncio.create_task(checked.check(token(KEY_TWO, 2)))
        await asyncio.sleep(0.05)
        found = await asyncio.wait_for(checked.check(token(KEY, 3)), 5)
        assert found.scopes == {"admin"} and not waiting.done()
        answers.set()
        with pytest.raises(ProblemError):
            await waiting

    asyncio.run(ask())


def new_key_of(number: int) -> RSAKey:
    return RSAKey.import_key({**KEY.as_dict(private=True), "kid": f"k-{number}"})


def test_an_issuer_that_is_down_lets_nobody_in() -> None:
    with Issuer(down=True) as issuer:
        clock = Clock()
        checked = verifier(issuer, clock)
        refused = refusal(checked, issuer.token())
        assert (refused.kind.code, refused.retry_after) == ("not_ready", 5)
        assert issuer.url in str(refused)
        refusal(checked, issuer.token())
        assert len(issuer.requests) == 1, "it is not asked again at once"
        issuer.down = False
        clock.now += 6
        assert check(checked, issuer.token()).scopes == {"admin"}
        issuer.down = True
        clock.now += 31
        assert check(checked, issuer.token("bob")).scopes == {"analyst"}, "its keys are at hand"
        assert refusal(checked, issuer.token(key=KEY_TWO)).kind.code == "not_ready"
        clock.now += 3_600
        assert refusal(checked, issuer.token("bob")).kind.code == "not_ready"
        assert refusal(checked, issuer.token("ann")).kind.code == "not_ready"


KEY_TWO: RSAKey = new_key("second")
SMALL = rsa.generate_private_key(65537, 1024).private_bytes(
    Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
)


@pytest.mark.parametrize(
    ("about", "keys"),
    [
        ({"issuer": "https://elsewhere.example"}, None),
        ({"jwks_uri": "http://elsewhere.example/jwks"}, None),
        ({"jwks_uri": None}, None),
        ({}, {"keys": []}),
        ({}, {"keys": [{"kty": "oct", "kid": "first", "k": "c2VjcmV0"}, 7, {}]}),
        ({}, {"keys": [KEY.as_dict(private=False, use="enc")]}),
        ({}, {"keys": [RSAKey.import_key(SMALL).as_dict(private=False)]}),
        ({}, {"keys": "x"}),
        ({}, ["x"]),
    ],
)
def test_documents_of_an_issuer_that_are_no_use(about: dict[str, Any], keys: Any) -> None:
    issuer = "https://i.example"
    described = {"issuer": issuer, "jwks_uri": f"{issuer}/jwks", **about}

    def fetch(address: str) -> bytes:
        return json.dumps(keys if address.endswith("/jwks") else described).encode()

    checked = TokenVerifier(
        OidcSettings(issuer=issuer, client_id=CLIENT, **GROUPS), clock=lambda: 0, fetch=fetch
    )
    assert refusal_code(checked, "a.b.c") == "not_ready"


# Settings.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"issuer": "http://login.example"}, "https"),
        ({"issuer": "login.example"}, "https"),
        ({"client_id": ""}, "client_id"),
        ({"admin_groups": "", "analyst_groups": " , "}, "nobody could sign in"),
    ],
)
def test_wrong_settings_are_refused_at_start(changes: dict[str, str], message: str) -> None:
    values = {"issuer": "https://login.example", "client_id": CLIENT, **GROUPS, **changes}
    environ = {f"TACTFUL_OIDC__{name.upper()}": value for name, value in values.items()}
    with pytest.raises(ConfigError, match=message):
        load_settings(environ=environ)


# Over HTTP, in one process and through worker processes.


@pytest.fixture
def signed(tmp_path: Any, workers: int, issuer: Issuer) -> Iterator[Live]:
    settings = small_settings(tmp_path)
    server = replace(settings.server, dev=False)
    settings = replace(settings, server=server, oidc=settings_of(issuer))
    with Live(Platform.open(settings, build), workers=workers) as live:
        yield live


def test_people_and_keys_are_served_side_by_side(signed: Live, issuer: Issuer) -> None:
    def ask(path: str, token: str) -> Any:
        return signed.http.get(path, headers={"authorization": f"Bearer {token}"})

    ann, bob, cyd = (issuer.token(login) for login in ("ann", "bob", "cyd"))
    assert ask("/v1/me", ann).json() == {
        "name": "ann@shop.example",
        "note": issuer.url,
        "scopes": ["admin"],
    }
    assert ask("/v1/me", bob).json()["scopes"] == ["analyst"]
    assert ask("/v1/reports", bob).status_code == 200
    assert ask("/v1/users/zoe/features", bob).json()["code"] == "missing_scope"
    assert ask("/v1/me", cyd).json()["code"] == "missing_scope"
    assert ask("/v1/me", issuer.token(aud="another")).json()["code"] == "no_key"
    in_header = signed.http.get("/v1/me", headers={"x-api-key": ann})
    assert in_header.status_code == 401, "an ID token is no API key"
    key = signed.create_key("monitor")
    assert ask("/v1/me", key).json()["name"] == f"key {key.split('_')[1]}"
    assert ask("/v1/users/zoe/features", ann).status_code == 200
    (entry,) = ask("/v1/audit", ann).json()["entries"][:1]
    assert (entry["action"], entry["actor"]) == ("person.features", "ann@shop.example")
