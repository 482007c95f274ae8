"""Python clients of the HTTP API, blocking and asyncio, with a queue on disk.

It may import `kernels`, `metrics`, `schemas`, `util`.
Begin with `sync`.
"""

from tactful.client.aio import AsyncClient
from tactful.client.calls import Flushed, Kind, RecommendFields, Record
from tactful.client.offline_queue import OfflineQueue
from tactful.client.request import Request
from tactful.client.sync import Client
from tactful.client.trust import tls_context
from tactful.util.addresses import with_scheme

__all__ = [
    "AsyncClient",
    "Client",
    "Flushed",
    "Kind",
    "OfflineQueue",
    "RecommendFields",
    "Record",
    "Request",
    "tls_context",
    "with_scheme",
]
