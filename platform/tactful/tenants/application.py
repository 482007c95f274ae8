"""The application of all tenants: it chooses whose application answers a request.

=========================================  =====================================================
request                                    answered by
=========================================  =====================================================
``/t/NAME/…``                              the tenant of that name, as if the path were ``/…``
with an API key                            the tenant that has the key
``OPTIONS`` with the header ``Origin``     the first tenant whose pages may have that origin
``/healthz``, ``/readyz``                  this module, for the whole process
``/``, ``/docs``, ``/openapi.json``        any tenant: they are the same for all
other                                      nobody: 401
=========================================  =====================================================

The chosen application checks the key itself. It knows no other tenant, so a key of another one is
as unknown to it as any text.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata

from tactful.http import credentials
from tactful.http.asgi import Receive, Reply, Scope, Send, json_reply
from tactful.http.resource import (
    Application,
    request_id_of,
    run_lifespan,
    send_problem,
    send_reply,
)
from tactful.http.routes import make_application
from tactful.schemas import browser_access as browser
from tactful.schemas.health import Health
from tactful.schemas.problems import ProblemError
from tactful.server.platform import Platform

PREFIX = b"/t/"
"""Beginning of the paths that name a tenant."""

_KEY_IN_QUERY = re.compile(rb"tactful_[0-9a-f]{8}_[A-Za-z0-9_-]{43}")
_SAME_FOR_ALL = frozenset({b"/", b"/docs", b"/openapi.json"})


@dataclass(frozen=True)
class Tenant:
    """A tenant of this process."""

    name: str
    platform: Platform
    application: Application
    origins: browser.Origins  # of its web pages


def make_tenant(name: str, platform: Platform) -> Tenant:
    """Make the application of a tenant."""
    origins = browser.parse_origins(platform.settings.server.cors_origins)
    return Tenant(name, platform, make_application(platform), origins)


class TenantsApplication:
    """ASGI application of all tenants of a process."""

    def __init__(self, tenants: Sequence[Tenant]) -> None:
        """Answer for `tenants`; the lifespan starts and stops them."""
        self._tenants = tenants
        self._by_name = {tenant.name.encode(): tenant for tenant in tenants}
        self._lifespan = _AllTenants([tenant.platform for tenant in tenants])
        self._version = metadata.version("tactful")
        self._own: Mapping[bytes, Callable[[], Awaitable[Reply]]] = {
            b"/healthz": self._get_health,
            b"/readyz": self._get_readiness,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the lifespan."""
        if scope["type"] == "lifespan":
            await run_lifespan(self._lifespan, receive, send)
            return
        own = self._own.get(scope["raw_path"])
        try:
            if own is not None and scope["method"] in ("GET", "HEAD"):
                reply = await own()
                await send_reply(reply, request_id_of(dict(scope["headers"])), send)
                return
            tenant = self._choose(scope)
        except ProblemError as error:
            await send_problem(error, scope, send)
            return
        await tenant.application(scope, receive, send)

    def _choose(self, scope: Scope) -> Tenant:
        """Return the tenant of a request; take the prefix off its path."""
        path: bytes = scope["raw_path"]
        if path.startswith(PREFIX):
            name, slash, rest = path[len(PREFIX) :].partition(b"/")
            if (named := self._by_name.get(name)) is None:
                raise ProblemError("not_found", "no tenant has this name")
            # The scope is changed in place, since the server reads notes of the application in it.
            scope["raw_path"] = slash + rest or b"/"
            return named
        headers = dict(scope["headers"])
        if self._tenants and path in _SAME_FOR_ALL:
            return self._tenants[0]
        if scope["method"] == "OPTIONS":
            found = (tenant for tenant in self._tenants if tenant.origins.of(headers) is not None)
        else:
            keys = _keys(headers, scope["query_string"])
            found = (
                tenant
                for tenant in self._tenants
                if any(tenant.platform.keys.knows(key) for key in keys)
            )
        if (tenant := next(found, None)) is None:
            raise ProblemError(
                "no_key",
                "send `Authorization: Bearer KEY` with a key of a tenant, or name the tenant "
                "by the path /t/NAME/…",
                headers=((b"www-authenticate", b'Bearer realm="tactful"'),),
            )
        return tenant

    async def _get_health(self) -> Reply:
        return json_reply(Health(status="ok", version=self._version))

    async def _get_readiness(self) -> Reply:
        """Answer whether all tenants are ready; those who ask anonymously get no names."""
        found = await asyncio.gather(
            *(asyncio.to_thread(tenant.platform.health) for tenant in self._tenants)
        )
        late = sum(health.status != "ok" for health in found)
        if late:
            text = f"{late} of {len(found)} tenants are not ready; /t/NAME/readyz says why"
            raise ProblemError("not_ready", text, retry_after=1)
        return json_reply(Health(status="ok", version=self._version))


def _keys(headers: Mapping[bytes, bytes], query: bytes) -> list[str]:
    """Return the texts in a request that may be its key."""
    sent = credentials.in_headers(headers, basic=True)
    return [sent] if sent else [match.decode() for match in _KEY_IN_QUERY.findall(query)[:4]]


class _AllTenants:
    """Lifespan of several platforms."""

    def __init__(self, platforms: Sequence[Platform]) -> None:
        self._platforms = platforms
        self._started: list[Platform] = []

    async def start(self) -> None:
        """Start all; if one fails, stop those that were started."""
        try:
            for platform in self._platforms:
                await platform.start()
                self._started.append(platform)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop all that were started, whatever fails of them; then raise the first failure."""
        stopping = [platform.stop() for platform in self._started]
        self._started = []
        results = await asyncio.gather(*stopping, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
