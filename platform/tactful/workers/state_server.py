"""Server side of the worker protocol, in the process that owns the state."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping, MutableMapping
from typing import Any

from tactful.catalogue.changes import ChangeList
from tactful.catalogue.request_context import described, read_columns, read_nonzero
from tactful.http.asgi import PARAMETERS, Call, Endpoint, Reply
from tactful.http.routes import ENDPOINTS
from tactful.recommend.build import Counts
from tactful.server.platform import Platform
from tactful.util.yielding_lock import YieldingLock
from tactful.workers import ipc
from tactful.workers.serving_worker import WorkerConfig
from tactful.workers.status import Served, served

logger = logging.getLogger(__name__)

_TAKERS = 5_000
_ENDPOINTS: Mapping[tuple[str, str], Endpoint] = {(e.method, e.path): e for e in ENDPOINTS}


class StateServer:
    """Answers workers on the event loop of the platform; a refusal is a `ProblemError`."""

    def __init__(
        self,
        platform: Platform,
        build: str,
        counts: Counts,
    ) -> None:
        """Answer from `platform` and `counts`; its own recommender refreshes the trends.

        `build` is the ``module:name`` of the function that makes the recommender of a worker.
        """
        self._platform = platform
        self._source = platform.backend.source
        self._changes = ChangeList(self._source)
        self._counts = counts
        config = WorkerConfig(
            platform.settings,
            build,
            self._source.definitions,
            counts_shown=counts.shown is not None,
            reads_trends=counts.trends is not None,
            reads_takers=counts.takers is not None,
            reads_latest=counts.latest is not None,
        )
        self._config = pickle.dumps(config)

    @property
    def served(self) -> Served:
        """Model and catalogue of this process."""
        return served(self._platform.recommender.describe())

    def refresh(self) -> None:
        """Take over new models and items; for one thread at a time.

        A changed item is published to workers only when the index of this process has a row for
        it, so that every process gives it the same row.
        """
        self._changes.look(self._platform.lock.inner)
        self._platform.recommender.refresh(YieldingLock(self._platform.lock.inner))
        self._changes.publish()

    def respond(self, request: ipc.Request) -> Any:
        """Return the response to a request that needs no waiting."""
        platform, source = self._platform, self._source
        match request:
            case ipc.FeaturesRequest():
                return self._features(request)
            case ipc.ColumnsRequest(entity, keys, names, at):
                with platform.lock:
                    return read_columns(source, entity, keys, names, at).tobytes()
            case ipc.NonZeroRequest(entity, name, at, start):
                with platform.lock:
                    page = read_nonzero(source, entity, name, at, start)
                if page is None:
                    return ipc.NonZeroResponse(None, b"", None)
                return ipc.NonZeroResponse(page.keys, page.numbers.tobytes(), page.following)
            case ipc.ChangesRequest(epoch, start):
                now, following, items = self._changes.read(epoch, start)
                latest = self._counts.latest
                return ipc.ChangesResponse(
                    *(now, following, items, source.watermark, source.offset, platform.position),
                    latest=0 if latest is None else latest.at(),
                )
            case ipc.TrendsRequest():
                return () if self._counts.trends is None else self._counts.trends.latest
            case ipc.TakersRequest(at, start):
                takers = self._counts.takers
                common = () if takers is None else takers.common(at)
                return common[start : start + _TAKERS]
            case ipc.ImpressionNotice(recommendation_id, impression):
                platform.recent.note(recommendation_id, impression)
                return None
            case ipc.KeysRequest(used):
                platform.keys.note_uses(used)
                return platform.keys.valid
            case ipc.ConfigRequest():
                return self._config
        raise TypeError(f"no request with an immediate response: {type(request).__name__}")

    def _features(self, request: ipc.FeaturesRequest) -> ipc.FeaturesResponse:
        platform, source, shown = self._platform, self._source, self._counts.shown
        entity, key, at = request.entity, request.key, request.at
        platform.check()
        with platform.lock:
            offset, position = source.offset, platform.position
            if entity != "user":
                return ipc.FeaturesResponse(dict(source.read(entity, key, at)), offset, position)
            allowed = platform.permissions.reads_history(key, request.device, at, request.claim)
            if not allowed:
                return ipc.FeaturesResponse({}, offset, position, personal=False)
            return ipc.FeaturesResponse(
                dict(source.read(entity, key, at)),
                offset,
                position,
                properties=dict(described(source, key, at)) or None,
                shown=None if shown is None else dict(shown.of(key, at)),
                crossed=[*platform.domains.profiles_of(key, request.device, at)],
            )

    async def respond_later(
        self, request: ipc.PositionRequest | ipc.FlagVersionRequest | ipc.ForwardRequest
    ) -> Any:
        """Return the response to a request that may take some time."""
        if isinstance(request, ipc.PositionRequest):
            await self._platform.recommendations.reach(request.position)
            return None
        if isinstance(request, ipc.FlagVersionRequest):
            return await self._platform.flags.service.newer(request.number)
        return await self._forward(request)

    async def _forward(self, request: ipc.ForwardRequest) -> Reply:
        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": request.body}

        settings = self._platform.settings
        call = Call(
            {
                "query_string": request.query,
                PARAMETERS: request.parameters,
                "client": (request.peer, 0),
            },
            receive,
            request.headers,
            request.key,
            settings.limits.body_bytes,
            settings.server.body_timeout_s,
        )
        return await _ENDPOINTS[request.method, request.path].handle(self._platform, call)
