"""Devices over TLS on a real SuperLink, behind the proxy that is shipped."""

import email.utils
import inspect
import re
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from flwr.clientapp import ClientApp
from tests.federated.fleet_support import (
    answers_all,
    in_threads,
    invited,
    let_in,
    proxy,
    tls,
    trainer,
    update,
)
from tests.platform.support import wait_until

from tactful_federated.core.invitation import Invitation
from tactful_federated.core.polling import Polling
from tactful_federated.device.home import DeviceHome
from tactful_federated.errors import CheckpointError, SettingsError
from tactful_federated.serving.buffered import FlowerStream, serve_buffered
from tactful_federated.serving.rounds import authority_key, collector_for, serve_rounds
from tactful_federated.transport.certificates import Tls, node_key, public_pem
from tactful_federated.transport.fleet_client import FleetClient, FleetError, ServerClock
from tactful_federated.transport.superlink import SuperLink, SuperLinkError

pytestmark = pytest.mark.service("nginx")

# Paths that the proxy refuses and routes that it passes on.
CLOSED = """
/health /docs /openapi.json / /v1/control/start-run /v1/control/register-node //v1/control/start-run
/v1/runtime/acquire-task /v1/fleet/register-node /v1/fleet/unregister-node /v1/fleet/get-fab
/v1/fleet/get-run /v1/fleet/pull-messages/../../control/start-run /v1/fleet/pull-messages/
/v1/fleet/pull-messages%2f..%2f..%2fcontrol%2fstart-run
"""
OPEN = """
activate-node deactivate-node send-node-heartbeat confirm-message-received
pull-messages push-messages pull-object push-object
"""


@dataclass
class Place:
    link: SuperLink
    tls: Tls
    address: str
    folder: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One SuperLink and one proxy for this module: each takes seconds to start."""
    folder = tmp_path_factory.mktemp("fleet")
    certificates = tls(folder / "tls")
    with (
        SuperLink(folder / "link", certificates) as link,
        proxy(folder / "proxy", certificates, link.address) as address,
    ):
        yield Place(link, certificates, address, folder)


def homes(place: Place, server: Path, invitation: Invitation, count: int) -> dict[int, DeviceHome]:
    """Enrolled devices by node, with consent."""
    found = {}
    for number in range(count):
        directory = server / f"device-{number}"
        home = DeviceHome(directory, invitation)
        home.events.give_consent()
        found[let_in(place.link, directory, server)] = home
    return found


def client(place: Place, home: DeviceHome, number: int) -> FleetClient:
    authority = place.tls.authority.read_bytes()
    return FleetClient(
        place.address, authority, home.key, home.app(trainer(number)), polling=Polling(0.1)
    )


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["clear", "secret"])
def test_a_sum_over_the_network_is_of_the_updates(place: Place, tmp_path: Path, tier: str) -> None:
    invitation = invited(tmp_path, tier, 3)
    devices = homes(place, tmp_path, invitation, 3)
    clients = [client(place, home, node % 1000) for node, home in devices.items()]
    weights = np.zeros(invitation.plan.parameters, dtype=np.float32)
    with place.link.run() as grid, in_threads(clients):
        wait_until(lambda: set(devices) <= set(grid.get_node_ids()))
        collector = collector_for(invitation, grid, deadline=60.0)
        found = collector.collect(list(devices), weights, invitation.plan, 1)
        again = collector.collect(list(devices), weights, invitation.plan, 1)
    expected = sum(
        invitation.plan.grid.encode(update(node % 1000, 1, weights.size)) for node in devices
    )
    assert found.reports == 3 and np.array_equal(found.total, expected)
    # The devices' own ledgers refuse the same round, whatever the server says.
    assert again.reports == 0
    for home in devices.values():
        assert home.ledger.times("test") == 1
        home.close()


@pytest.mark.parametrize("file", ["fleet-proxy.conf", "fleet-proxy-stock.conf"])
def test_only_what_devices_need_passes_the_proxy(tmp_path: Path, file: str) -> None:
    by_bundle = ["get-fab", "get-run"] if "stock" in file else []
    certificates = tls(tmp_path / "tls")
    seen: list[str] = []
    trusted = ssl.create_default_context(cafile=str(certificates.authority))
    with (
        answers_all(certificates, seen) as upstream,
        proxy(tmp_path / "proxy", certificates, upstream, file) as address,
        httpx.Client(base_url=f"https://{address}", verify=trusted) as http,
    ):
        for path in set(CLOSED.split()) - {f"/v1/fleet/{route}" for route in by_bundle}:
            for method in ("POST", "GET"):
                assert http.request(method, path).status_code == 404, (method, path)
        assert http.get("/v1/fleet/pull-messages").status_code == 403
        assert seen == []
        for route in OPEN.split() + by_bundle:
            assert http.post(f"/v1/fleet/{route}?and=more").status_code == 200
            assert seen.pop() == f"POST /v1/fleet/{route}"
    # Whom it refused is a device's address, and stands nowhere.
    assert "client" not in (tmp_path / "proxy" / "error.log").read_text()


@pytest.mark.slow
def test_a_superlink_asks_who_it_is(place: Place) -> None:
    trusted = ssl.create_default_context(cafile=str(place.tls.authority))
    with httpx.Client(base_url=f"https://{place.address}", verify=trusted) as http:
        headers = {"content-type": "application/x-protobuf", "accept": "application/x-protobuf"}
        assert http.post("/v1/fleet/pull-messages", headers=headers).status_code in (401, 415)


@pytest.mark.slow
def test_a_stranger_and_another_authority_are_refused(place: Place, tmp_path: Path) -> None:
    invitation = invited(tmp_path, "clear", 3)
    home = DeviceHome(tmp_path / "device-1", invitation)
    authority = place.tls.authority.read_bytes()
    app = home.app(trainer(1))
    with pytest.raises(FleetError, match="enrol"):
        FleetClient(place.address, authority, home.key, app, patience=-1.0).work(lambda: False)
    with pytest.raises(FleetError, match="fleet proxy"):
        nowhere = place.link.address.replace("127.0.0.1", "localhost")
        FleetClient(f"{nowhere}/elsewhere", authority, home.key, app).work(lambda: False)
    other = tls(tmp_path / "tls").authority.read_bytes()
    stranger = FleetClient(place.address, other, home.key, home.app(trainer(1)))
    with pytest.raises(httpx.ConnectError, match="certificate"):
        stranger.step()
    home.close()


@pytest.mark.slow
def test_a_key_is_enrolled_once_and_rotated_to_another(place: Place, tmp_path: Path) -> None:
    first = public_pem(node_key(tmp_path / "key").public_key())
    assert public_pem(node_key(tmp_path / "key").public_key()) == first
    place.link.enrol(first)
    with pytest.raises(SuperLinkError, match="refused"):
        place.link.enrol(first)
    second = public_pem(node_key(tmp_path / "key", rotate=True).public_key())
    assert second != first and place.link.enrol(second)
    with pytest.raises(SuperLinkError, match="refused"):
        place.link.enrol(b"no key")


@pytest.mark.slow
def test_rounds_are_served_to_the_end_and_go_on(place: Place, tmp_path: Path) -> None:
    invitation = invited(tmp_path, "clear", 2)
    devices = homes(place, tmp_path, invitation, 16)
    clients = [client(place, home, 1) for home in list(devices.values())[:4]]
    views = []
    with place.link.run() as grid, in_threads(clients):
        wait_until(lambda: len(set(devices) & set(grid.get_node_ids())) == 4)
        collector = collector_for(invitation, grid, deadline=60.0)
        for wanted in (1, 2):
            serve_rounds(
                tmp_path,
                invitation,
                collector,
                rounds=wanted,
                progress=lambda _, v: views.append(v),
            )
    assert [view.releases for view in views] == [1, 2]
    assert 0 < views[0].epsilon <= views[1].epsilon <= invitation.plan.epsilon
    assert np.isfinite(np.load(tmp_path / "weights.npy")).all()
    for home in devices.values():
        home.close()


@pytest.mark.slow
def test_a_buffer_is_filled_over_the_network(place: Place, tmp_path: Path) -> None:
    invitation = invited(tmp_path, "clear", 2)
    devices = homes(place, tmp_path, invitation, 16)
    clients = [client(place, home, 1) for home in list(devices.values())[:4]]
    with place.link.run() as grid, in_threads(clients):
        stream = FlowerStream(grid, invitation.vocabulary, deadline=60.0)
        serve_buffered(tmp_path, invitation, stream, rounds=2, polling=Polling(0.1))
    assert np.isfinite(np.load(tmp_path / "weights.npy")).all()
    for home in devices.values():
        home.close()


def test_outages_are_retried_and_refusals_are_not(tmp_path: Path) -> None:
    key, authority = node_key(tmp_path / "key"), tls(tmp_path / "tls").authority.read_bytes()
    now = [0.0]
    answers: Iterator[int] = iter(())

    def step() -> bool:
        status = next(answers, 0)
        request = httpx.Request("POST", "https://localhost/v1/fleet/pull-messages")
        if status:
            raise httpx.HTTPStatusError(
                "", request=request, response=httpx.Response(status, request=request)
            )
        return True

    def wait(seconds: float) -> None:
        now[0] += seconds

    def work() -> None:
        served = FleetClient(
            "localhost:1", authority, key, ClientApp(), polling=Polling(monotonic=clock, sleep=wait)
        )
        served.step = step  # type: ignore[method-assign]
        answered = iter([False] * (len(statuses) + 1))
        served.work(lambda: next(answered, True))

    def clock() -> float:
        return now[0] + 1

    # nginx says 502 while the SuperLink is away, and 503 to one who asks too often.
    for statuses in ([502] * 30, [503] * 30, [429] * 30, [403, 403, *[502] * 30, 403]):
        answers = iter(statuses)
        work()
        assert now[0] > 500 and next(answers, None) is None
        now[0] = 0.0
    statuses = [403] * 200
    answers = iter(statuses)
    with pytest.raises(FleetError, match="enrol"):
        work()


@pytest.mark.slow
@pytest.mark.parametrize("skew", [8.0, -400.0])
def test_a_skewed_clock_ends_no_device(
    place: Place, tmp_path: Path, skew: float, caplog: pytest.LogCaptureFixture
) -> None:
    """A clock that was 8 s ahead ended the device with "enrol it"."""
    invitation = invited(tmp_path, "secret", 3)
    devices = homes(place, tmp_path, invitation, 3)
    clients = []
    for node, home in devices.items():
        clients.append(client(place, home, node % 1000))
        clients[-1]._clock._now = lambda: time.time() + skew
    weights = np.zeros(invitation.plan.parameters, dtype=np.float32)
    with place.link.run() as grid, in_threads(clients):
        wait_until(lambda: set(devices) <= set(grid.get_node_ids()))
        collector = collector_for(invitation, grid, deadline=60.0)
        assert collector.collect(list(devices), weights, invitation.plan, 1).reports == 3
    said = re.search(r"clock of this device is (\d+) s (ahead|behind)", caplog.text)
    assert said is not None and abs(int(said[1]) - abs(skew)) < 10
    assert said[2] == ("ahead" if skew > 0 else "behind")
    for home in devices.values():
        home.close()


def test_the_clock_of_the_server_is_used_within_bounds(tmp_path: Path) -> None:
    key, authority = node_key(tmp_path / "key"), tls(tmp_path / "tls").authority.read_bytes()
    true, signed, waits = 1_800_000_000.0, list[float](), list[float]()

    def work(skew: float, header: str | None = "date", patience: int = 9) -> None:
        served = FleetClient(
            "localhost:1", authority, key, ClientApp(), polling=Polling(1.0, sleep=waits.append)
        )
        clock = served._clock
        clock._now = lambda: true + skew

        def step() -> bool:
            signed.append(clock.now())
            if -5 < true - clock.now() < 305:
                return True
            request = httpx.Request("POST", "https://localhost/v1/fleet/pull-messages")
            headers = {header: email.utils.formatdate(true, usegmt=True)} if header else {}
            refusal = httpx.Response(401, request=request, headers=headers)
            raise httpx.HTTPStatusError("", request=request, response=refusal)

        served.step = step  # type: ignore[method-assign]
        answered = iter([False] * patience)
        served.work(lambda: next(answered, True))
        served.close()

    for skew in (8.0, -3600.0, 86_000.0):
        signed.clear()
        work(skew)
        assert signed[0] == true + skew and set(signed[1:]) == {true}
    for skew, message in ((90_000.0, "90000 s ahead"), (-1e6, "1000000 s behind")):
        with pytest.raises(FleetError, match=f"{message}.*set the clock"):
            work(skew)
    for header in (None, "x-date"):  # no word of the time: it may be the key
        with pytest.raises(FleetError, match="enrol"):
            work(8.0, header)
    true, waits = 1_900_000_000.0, []
    clock = ServerClock(lambda: true)
    for date in ("", "yesterday", "Sun, 99 Nov 2026 19:00:00 GMT", email.utils.formatdate(true)):
        assert not clock.correct(date) and clock.offset == 0


@pytest.mark.slow
def test_a_superlink_at_work_is_not_ended_by_a_second_start(place: Place) -> None:
    before = place.link.pid
    second = SuperLink(place.link.directory, place.tls)
    with pytest.raises(CheckpointError, match="another process uses"), second:
        pass
    assert place.link.pid == before and Path(f"/proc/{before}").exists()
    place.link.enrol(public_pem(node_key(place.folder / "of-a-device").public_key()))


def test_a_server_needs_the_enrolling_key_once(tmp_path: Path) -> None:
    invitation = invited(tmp_path, "secret", 3)
    (tmp_path / "authority.key").unlink()  # in other hands, as the tier wants it
    assert invited(tmp_path, "secret", 3) == invitation
    with pytest.raises(SettingsError, match="missing"):
        authority_key(tmp_path)
    with pytest.raises(SettingsError, match="written with other settings"):
        invited(tmp_path, "clear", 3)


@pytest.mark.slow
def test_the_superlink_runs_no_code_and_calls_nobody(place: Place) -> None:
    command = " ".join(place.link.command())
    assert "--isolation process" in command
    for part in ("enable-supernode-auth", "database", "superexec-auth-secret-file"):
        assert f"--{part}" in command
    assert "--disable-runtime-dependency-installation" in command
    environment = Path(f"/proc/{place.link.pid}/environ").read_bytes().split(b"\0")
    assert b"FLWR_TELEMETRY_ENABLED=0" in environment
    assert b"FLWR_DISABLE_UPDATE_CHECK=1" in environment
    # No executor beside it: what somebody submits on this machine is run by nobody.
    children = Path(f"/proc/{place.link.pid}/task/{place.link.pid}/children").read_text().split()
    assert children == []
    source = Path(inspect.getfile(FleetClient))
    assert not re.search(r"GetFab|GetRun|get_fab", source.read_text("utf-8"))
