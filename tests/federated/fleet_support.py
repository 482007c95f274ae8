"""A SuperLink, a proxy in front of it, and devices, for tests of what runs over a network."""

import contextlib
import datetime
import http.server
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tests.federated.private_run import WISHES
from tests.platform.support import wait_until

from benchmarks.ports import free_port
from tactful_federated.core.invitation import Invitation
from tactful_federated.device.home import EnrolmentRequest
from tactful_federated.model.vectors import Vector
from tactful_federated.secagg.messages import enrol
from tactful_federated.serving.rounds import authority_key, invite
from tactful_federated.transport.certificates import Tls, make_tls
from tactful_federated.transport.fleet_client import FleetClient
from tactful_federated.transport.superlink import SuperLink

ROOT = Path(__file__).resolve().parents[2]
CATEGORIES = ["bread", "cheese", "milk"]


def tls(directory: Path) -> Tls:
    return make_tls(directory, ["localhost", "127.0.0.1"], now=datetime.datetime.now(datetime.UTC))


def invited(directory: Path, tier: str, devices: int, **more: Any) -> Invitation:
    wishes = replace(WISHES, delta=1e-3, population=devices * 8, minimum_reports=min(3, devices))
    wishes = replace(wishes, rounds=6, report_goal=devices, over_selection=1.0)
    return invite(directory, wishes, CATEGORIES, run="test", tier=tier, **more)  # type: ignore[arg-type]


def update(device: int, round_number: int, size: int) -> Vector:
    """What a test's device sends: its own in each round, and the same in every process."""
    return np.random.default_rng((device, round_number)).normal(0, 0.01, size).astype(np.float32)


def trainer(device: int) -> Callable[[Vector, int], Vector]:
    return lambda weights, round_number: update(device, round_number, weights.size)


def let_in(link: SuperLink, home: Path, server: Path) -> int:
    """Enrol the device of a directory; returns its node."""
    request = msgspec.json.decode((home / "request.json").read_bytes(), type=EnrolmentRequest)
    node = link.enrol(request.node)
    identity = Ed25519PublicKey.from_public_bytes(request.identity)
    enrolment = enrol(authority_key(server), node, identity)
    (home / "enrolment").write_bytes(msgspec.msgpack.encode(enrolment))
    return node


@contextlib.contextmanager
def in_threads(clients: list[FleetClient]) -> Iterator[None]:
    """Devices at work in this process."""
    stop = threading.Event()
    threads = [threading.Thread(target=c.work, args=(stop.is_set,), daemon=True) for c in clients]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for client in clients:
            client.close()


@contextlib.contextmanager
def answers_all(certificates: Tls, seen: list[str]) -> Iterator[str]:
    """A server that says yes to every request and notes it; its address."""

    class Yes(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(f"{self.command} {self.path}")
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            """Keep still."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Yes)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def proxy(
    folder: Path, certificates: Tls, upstream: str, file: str = "fleet-proxy.conf"
) -> Iterator[str]:
    """The shipped proxy of devices with other paths and ports; its address."""
    own = {
        "server 127.0.0.1:9092;": f"server {upstream};",
        "listen 9443 ssl;": "listen 127.0.0.1:PORT ssl;",
        "/etc/tactful/tls/authority.pem": str(certificates.authority),
    }
    with nginx(folder, certificates, file, own) as port:
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def nginx(folder: Path, certificates: Tls, file: str, own: dict[str, str]) -> Iterator[int]:
    """A shipped nginx configuration with some of its text replaced; its port, PORT in them."""
    program = os.environ["TACTFUL_TEST_NGINX"]
    port = free_port()
    text = (ROOT / "deploy" / file).read_text("utf-8")
    errors = folder / "error.log"
    replaced = {
        **{old: new.replace("PORT", str(port)) for old, new in own.items()},
        "/etc/tactful/tls/server.pem": str(certificates.certificate),
        "/etc/tactful/tls/server.key": str(certificates.key),
        "error_log stderr emerg;": f"error_log {errors} emerg;",
        "worker_processes auto;": f"worker_processes 1; pid {folder}/pid; daemon off;",
        "http {": "http {\n"
        + "".join(
            f"{kind}_temp_path {folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        ),
    }
    for old, new in replaced.items():
        assert old in text, old
        text = text.replace(old, new)
    folder.mkdir()
    (folder / "nginx.conf").write_text(text)
    process = subprocess.Popen(
        [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(errors)]
    )

    def listens() -> bool:
        assert process.poll() is None, errors.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    try:
        wait_until(listens)
        yield port
    finally:
        process.terminate()
        process.wait()
