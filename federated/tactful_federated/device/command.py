"""The command `tactful-device`, and taking part in a run until stopped."""

from __future__ import annotations

import argparse
import logging
import math
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from tactful_federated.core.invitation import read_invitation
from tactful_federated.core.polling import Polling
from tactful_federated.device.home import DeviceHome
from tactful_federated.device.limits import Limits, keep_within
from tactful_federated.errors import FederatedError, HistoryError
from tactful_federated.transport.fleet_client import FleetClient
from tactful_privacy.decoding import DECODE_ERRORS

_NAP_S = 0.5
_LEAST_MEMORY_MB = 600


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; it exits with 0, 1 after a failure, or 2 for wrong arguments."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.server is not None and options.authority is None:
        parser.error("--authority is missing: a device trusts one authority and no other")
    logging.basicConfig(format="%(levelname)s %(message)s")
    try:
        _run(options)
    except (FederatedError, OSError) as error:
        sys.exit(f"tactful-device: {error}")


def take_part(
    home: DeviceHome,
    server: str,
    authority: bytes,
    stopped: Callable[[], bool],
    *,
    only_while: str | None = None,
    poll: float = 30.0,
    memory_mb: int = 1024,
) -> None:
    """Answer the questions of a server until stopped, within limits of this process.

    Args:
        home: The device.
        server: `host:port` of the proxy.
        authority: PEM of the only trusted certificate authority.
        stopped: Returns whether to stop.
        only_while: Command; the device works only while it succeeds.
        poll: Seconds between two questions to the server.
        memory_mb: Memory limit in MiB.

    Raises:
        FederatedError: The device is not enrolled, or does not fit its invitation.
    """

    def sleep(seconds: float) -> None:
        end = time.monotonic() + seconds
        while not stopped() and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _NAP_S))

    client = FleetClient(
        server,
        authority,
        home.key,
        home.app(),
        ready=lambda: home.events.consent and _succeeds(only_while),
        node=home.node,
        greeted=home.greeted,
        polling=Polling(interval=poll, sleep=sleep),
    )
    keep_within(Limits(memory_mb=memory_mb))
    with closing(client):
        client.work(stopped)


def read_history(path: Path) -> list[list[str]]:
    """Read a JSON list of visits, each a list of categories.

    Raises:
        HistoryError: The file has another form.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[list[str]])
    except DECODE_ERRORS as error:
        raise HistoryError(f"{path} must be a JSON list of lists of categories: {error}") from error


def _run(options: argparse.Namespace) -> None:
    invitation = read_invitation(options.invitation)
    with closing(DeviceHome(options.directory, invitation, rotate=options.rotate)) as home:
        if options.consent is not None:
            (home.events.give_consent if options.consent else home.withdraw)()
        if options.history is not None:
            home.import_history(read_history(options.history))
        if options.server is None:
            print(f"have {options.directory / 'request.json'} enrolled")  # noqa: T201
            return
        stopped: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda received, frame: stopped.append(received))
        take_part(
            home,
            options.server,
            options.authority.read_bytes(),
            lambda: bool(stopped),
            only_while=options.only_while,
            poll=options.poll,
            memory_mb=options.memory,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "tactful-device",
        description="Take part in a run as one device until stopped; its data stay in DIRECTORY.",
    )
    add = parser.add_argument
    add("directory", type=Path)
    add("--invitation", type=Path, required=True, help="invitation.json of the server")
    add("--server", help="host:port of the proxy; without it only DIRECTORY is created")
    add("--authority", type=Path, help="PEM file of the only trusted authority")
    consent = parser.add_mutually_exclusive_group()
    consent.add_argument("--consent", action="store_true", default=None, help="consent to training")
    consent.add_argument(
        "--withdraw", action="store_false", dest="consent", help="withdraw, and delete all visits"
    )
    add("--history", type=Path, help="JSON list of visits; imported ones are skipped")
    add("--only-while", help="train only while this command succeeds")
    add("--rotate", action="store_true", help="create new keys; the server sees a new device")
    add("--poll", type=_seconds, default=30.0, help="seconds between requests (30)")
    add("--memory", type=_megabytes, default=1024, help="memory limit in MiB, 600 or more (1024)")
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return seconds


def _megabytes(text: str) -> int:
    size = int(text)
    if size < _LEAST_MEMORY_MB:
        raise argparse.ArgumentTypeError(f"{text} is less than {_LEAST_MEMORY_MB}")
    return size


def _succeeds(command: str | None) -> bool:
    if command is None:
        return True
    return subprocess.run(shlex.split(command), capture_output=True, check=False).returncode == 0
