"""A server of S3 in memory, in a thread of the tests: moto, with one bucket."""

from __future__ import annotations

import contextlib
import itertools
import logging
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from tests.streaming.brokers import Proxy

BUCKET = "tests"

_numbers = itertools.count()


@dataclass(frozen=True)
class S3Server:
    """The server, and a proxy before it, whose connections a test may cut."""

    port: int
    proxy: Proxy = field(default_factory=Proxy)

    def environ(self, port: int | None = None) -> dict[str, str]:
        """Return the variables that clients read, for this server or another port."""
        return {
            "AWS_ACCESS_KEY_ID": "AKIATESTS",
            "AWS_SECRET_ACCESS_KEY": "secret-of-tests",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
        }

    def url(self) -> str:
        """Return a place in the bucket that no other test uses."""
        return f"s3://{BUCKET}/place {next(_numbers)}/below"

    def request(self, method: str, path: str, body: bytes = b"") -> None:
        """Send a request of no other client, such as one that makes a bucket."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{path}",
            data=body,
            method=method,
            headers={"Content-Type": "text/plain"},
        )
        urllib.request.urlopen(request, timeout=30).close()


@contextlib.contextmanager
def running_server() -> Iterator[S3Server]:
    moto = pytest.importorskip("moto.server", reason="no server of S3: pip install 'moto[s3]'")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    thread = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    thread.start()
    try:
        server = S3Server(thread.get_host_and_port()[1])
        server.request("PUT", BUCKET)
        server.proxy.open(server.port)
        yield server
        server.proxy.cut()
    finally:
        thread.stop()
