"""Flags evaluated by a Python process: against a running server, and without one."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.platform.flags.flag_files import FLAGS
from tests.platform.support import Live, build, logged, small_settings, wait_until

from tactful.errors import ClientError, ConnectionFailed, NotAllowed, SignatureError
from tactful.flags.exposures import EXPOSURE, is_verified
from tactful.flags.local import LocalFlags, Updates
from tactful.flags.payloads import PayloadSigner
from tactful.server.platform import Platform
from tactful_streaming.contract.log_entries import Event

PRICE = {
    "price": {
        "defaultValue": 1,
        "rules": [{"key": "e", "variations": [1, 2], "weights": [0, 1], "hashVersion": 2}],
    }
}


class Fake:
    """A server of flags without a socket, which notes the events it gets."""

    def __init__(self) -> None:
        self.signer = PayloadSigner(b"k" * 32)
        self.events: list[dict[str, Any]] = []
        self.status: dict[str, int] = {"/v1/flags/stream": 404}
        self.asked: list[httpx.Request] = []
        self.forged = False
        self.rejected: list[dict[str, Any]] = []
        self.publish(PRICE)

    def publish(self, features: dict[str, Any], version: int = 1, **parts: Any) -> None:
        self.payload = {"version": version, "features": features, **parts}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.asked.append(request)
        if self.status.get(path) == 0:
            raise httpx.ConnectError("nobody listens")
        if self.status.get(path) == 1:
            raise httpx.DecodingError("half a page")
        if self.status.get(path) == 2:
            raise RuntimeError("a mistake")
        if path in self.status:
            return httpx.Response(self.status[path], json={"title": "no", "status": 1})
        if path == "/v1/flags/signing-key":
            key = self.signer.public
            return httpx.Response(
                200, json={"key_id": "", "algorithm": "", "public_key": key.public_key}
            )
        if path == "/v1/flags/stream":
            return httpx.Response(200, text=self.stream())
        if path == "/v1/events":
            self.events += json.loads(request.content)
            counts = {"accepted": 1, "duplicates": 0, "rejected": self.rejected, "position": 1}
            return httpx.Response(200, json=counts)
        envelope = self.signer.seal(self.payload)
        tag = envelope.etag.decode()
        if request.headers.get("if-none-match") == tag:
            return httpx.Response(304)
        body = json.loads(envelope.body)
        if self.forged:
            body["signature"] = base64.b64encode(bytes(64)).decode()
        return httpx.Response(200, json=body, headers={"etag": tag})

    def stream(self) -> str:
        return f'event: version\ndata: {{"version":{self.payload["version"]}}}\n\n: none\n\n'

    def flags(self, **options: Any) -> LocalFlags:
        return LocalFlags("http://fake", transport=httpx.MockTransport(self), **options)


@pytest.fixture
def fake() -> Fake:
    return Fake()


def test_a_payload_is_fetched_once_and_checked(fake: Fake) -> None:
    flags = fake.flags()
    assert flags.for_unit(user_id="u").value("price", 7) == 7
    assert flags.refresh()
    assert not flags.refresh()
    assert flags.for_unit(user_id="u").value("price", 7) == 2
    assert flags.for_unit(user_id="u").value("price", "text") == "text"
    assert not flags.for_unit().is_on("none")
    paths = [request.url.path for request in fake.asked]
    assert paths.count("/v1/flags/signing-key") == 1
    fake.publish({}, 2)
    fake.forged = True
    with pytest.raises(SignatureError, match="signature of the server's key"):
        flags.refresh()
    assert flags.version == 1
    fake.status["/v1/flags/payload"] = 403
    with pytest.raises(NotAllowed):
        flags.refresh()


@pytest.mark.parametrize("key", ["x", "AAAA", base64.b64encode(bytes(32)).decode()])
def test_a_pinned_key_is_the_only_one_that_counts(fake: Fake, key: str) -> None:
    with pytest.raises(SignatureError):
        fake.flags(signing_key=key).refresh()
    assert fake.flags(signing_key=fake.signer.public.public_key).refresh()
    assert all(request.url.path != "/v1/flags/signing-key" for request in fake.asked)


def test_the_last_payload_holds_without_the_server(fake: Fake, tmp_path: Path) -> None:
    file = tmp_path / "flags.json"
    fake.flags(file=file).refresh()
    assert file.stat().st_mode & 0o777 == 0o600
    fake.status["/v1/flags/payload"] = 0
    with fake.flags(file=file) as flags:
        assert flags.version == 1
        assert flags.for_unit(user_id="u").value("price", 7) == 2
        with pytest.raises(ConnectionFailed, match="flags stay as they are"):
            flags.refresh()
    kept = file.read_text("utf-8")
    damages: list[Callable[[str], str]] = [
        lambda text: text[:-9],
        lambda text: text.replace("[0,1]", "[1,0]"),
        lambda text: "[]",
    ]
    for damage in damages:
        file.write_text(damage(kept), "utf-8")
        assert file.read_text("utf-8") != kept
        with fake.flags(file=file) as flags:
            assert flags.version == 0
    other = base64.b64encode(bytes(32)).decode()
    file.write_text(kept, "utf-8")
    with fake.flags(file=file, signing_key=other) as flags:
        assert flags.version == 0


def test_an_exposure_is_sent_once_and_waits_for_the_server(fake: Fake) -> None:
    fake.status["/v1/events"] = 503
    flags = fake.flags(clock=lambda: 12.5)
    flags.refresh()
    for user in ("u", "v", "u"):
        flags.for_unit(user_id=user).explain("price")
        flags.for_unit(user_id=user).value("price", 0)
    flags.for_unit(user_id="w", consented=False).value("price", 0)
    with pytest.raises(ClientError):
        flags._exposures.flush()
    del fake.status["/v1/events"]
    flags.close()
    assert len({event["event_id"] for event in fake.events}) == 2
    assert [(event["type"], event["user_id"]) for event in fake.events] == [
        ("exposure", "u"),
        ("exposure", "v"),
    ]
    said = {"experiment": "e", "arm": "1", "flag": "price", "version": 1}
    assert fake.events[0]["properties"] == said
    assert "context" not in fake.events[0]
    assert fake.events[0]["timestamp"] == 12_500


def test_consent_goes_with_exposures_and_a_refusal_is_reported(
    fake: Fake, caplog: pytest.LogCaptureFixture
) -> None:
    flags = fake.flags()
    flags.refresh()
    fake.rejected = [{"index": 0, "code": "no_consent", "message": "send their decision"}]
    flags.for_unit(user_id="u").value("price", 0)
    flags._exposures.flush()
    assert "no_consent: send their decision" in caplog.text
    for _ in range(2):
        flags.for_unit(user_id="u", consented=True).value("price", 0)
    flags.close()
    contexts = [event.get("context") for event in fake.events]
    assert contexts == [None, {"consent": "measurement"}]


def test_exposures_that_the_server_refuses_do_not_hold_up_others(fake: Fake) -> None:
    fake.status["/v1/events"] = 403
    flags = fake.flags()
    flags.refresh()
    flags.for_unit(user_id="u").value("price", 0)
    with pytest.raises(NotAllowed):
        flags._exposures.flush()
    del fake.status["/v1/events"]
    flags._exposures.flush()
    assert fake.events == []


def test_a_unit_keeps_its_arm_and_one_without_consent_has_none(fake: Fake) -> None:
    kept: dict[str, dict[str, str]] = {}
    flags = fake.flags(sticky=kept)
    flags.refresh()
    assert flags.for_unit(user_id="u").value("price", 0) == 2
    assert kept == {"id||u": {"e__0": "1"}}
    changed = json.loads(json.dumps(PRICE).replace("[0, 1]", "[1, 0]"))
    fake.publish(changed, 2)
    flags.refresh()
    assert flags.for_unit(user_id="u").value("price", 0) == 2
    assert flags.for_unit(user_id="v").value("price", 0) == 1
    assert flags.for_unit(user_id="w", consented=False).explain("price").source == "default"


def test_without_a_stream_the_server_is_asked_again(fake: Fake) -> None:
    heard: list[int] = []
    flags = fake.flags(updates=Updates(poll_s=0.01))
    flags.on_change(lambda version: 1 // 0)
    flags.on_change(heard.append)
    with flags.start():
        fake.publish({}, 2)
        wait_until(lambda: flags.version == 2)
    assert heard == [1, 2]


def test_pauses_grow_to_a_minute_and_end_with_the_failures() -> None:
    updates = Updates(jitter=lambda: 0.5)
    assert [updates.pause_s(n, streams=True) for n in (0, 1, 2, 4, 7)] == [0.5, 0.5, 1, 4, 32]
    assert updates.pause_s(5_000, streams=True) == 32, "after a night without the server"
    assert updates.pause_s(0, streams=False) == 60
    assert updates.pause_s(3, streams=False) == 2


class Pauses:
    """Stands for the event that ends the threads: notes pauses, and ends after so many."""

    def __init__(self, count: int, during: Callable[[int], object] = lambda count: None) -> None:
        self.count, self.during = count, during
        self.seconds: list[float] = []

    def is_set(self) -> bool:
        return len(self.seconds) >= self.count

    def wait(self, seconds: float) -> bool:
        self.seconds.append(seconds)
        self.during(len(self.seconds))
        return False


def follow(flags: LocalFlags, pauses: Pauses) -> list[float]:
    """Follow the server in this thread; return the pauses in seconds."""
    flags.refresh()
    flags._closed = pauses  # type: ignore[assignment]
    flags._follow(failed=False)
    return pauses.seconds


def test_a_stream_is_opened_again_after_growing_pauses_and_soon_after_a_lasting_one(
    fake: Fake,
) -> None:
    del fake.status["/v1/flags/stream"]
    broken = fake.flags(updates=Updates(jitter=lambda: 1.0))
    assert follow(broken, Pauses(8)) == [1, 2, 4, 8, 16, 32, 64, 64]
    seconds = iter(range(0, 6_000, 600))
    lasting = fake.flags(updates=Updates(jitter=lambda: 1.0), clock=lambda: next(seconds))
    assert follow(lasting, Pauses(3)) == [1, 1, 1]
    fake.status["/v1/flags/stream"] = 404
    assert follow(fake.flags(updates=Updates(jitter=lambda: 1.0)), Pauses(2)) == [75, 75]


def test_a_version_that_another_process_has_announced_is_asked_for_until_it_is_there(
    fake: Fake,
) -> None:
    del fake.status["/v1/flags/stream"]
    fake.stream = lambda: 'data: {"version":2}\n\n'  # type: ignore[method-assign]
    flags = fake.flags(updates=Updates(jitter=lambda: 1.0))
    pauses = Pauses(4, lambda count: fake.publish({}, 2) if count == 3 else None)
    assert follow(flags, pauses) == [1, 2, 4, 8]
    assert flags.version == 2


def test_an_older_version_does_not_come_back_unless_it_was_made_later(fake: Fake) -> None:
    fake.publish({}, 7, generated_ms=50)
    flags = fake.flags()
    assert flags.refresh()
    fake.publish(PRICE, 6, generated_ms=40)
    with pytest.raises(ClientError, match="version 6, older than 7"):
        flags.refresh()
    assert flags.version == 7
    fake.publish(PRICE, 6, generated_ms=60)  # a server with an older backup goes on
    assert flags.refresh()
    assert flags.version == 6


def test_a_payload_of_an_unknown_format_is_refused(fake: Fake) -> None:
    flags = fake.flags()
    flags.refresh()
    fake.publish({}, 2, format=2)
    with pytest.raises(ClientError, match="format 2, and this program reads format 1: update"):
        flags.refresh()
    assert flags.for_unit(user_id="u").value("price", 7) == 2


def asked_since(fake: Fake, count: int) -> bool:
    return len(fake.asked) > count


def test_a_mistake_does_not_end_the_threads(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    flags = fake.flags(updates=Updates(poll_s=0.01, jitter=lambda: 0.0))
    with flags.start():
        for status in (1, 2):
            fake.status["/v1/flags/payload"] = status
            wait_until(partial(asked_since, fake, len(fake.asked) + 1))
        del fake.status["/v1/flags/payload"]
        fake.publish({}, 2)
        wait_until(lambda: flags.version == 2)
    assert "does not answer (DecodingError)" in caplog.text
    assert "a mistake" in caplog.text


def test_a_file_that_cannot_be_written_is_reported(
    fake: Fake, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert fake.flags(file=tmp_path / "none" / "flags.json").refresh()
    assert "a start without the server has no flags" in caplog.text


def test_a_clock_that_is_behind_gives_the_time_of_the_version(fake: Fake) -> None:
    fake.publish(PRICE, generated_ms=20_000)
    flags = fake.flags(clock=lambda: 12.5)
    flags.refresh()
    flags.for_unit(user_id="u").value("price", 0)
    flags.close()
    assert fake.events[0]["timestamp"] == 20_000


def test_an_id_among_the_attributes_is_no_consent(fake: Fake) -> None:
    share = {"force": True, "range": [0, 1], "hashVersion": 2}
    fake.publish({"shared": {"defaultValue": False, "rules": [share]}, **PRICE})
    flags = fake.flags()
    flags.refresh()
    ids = {"id": "u", "user_id": "u", "device_id": "d"}
    assert flags.for_unit(attributes=ids).is_on("shared")
    unit = flags.for_unit(attributes=ids, consented=False)
    assert [unit.is_on("shared"), unit.value("price", 0)] == [False, 1]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Live, Path]]:
    settings = small_settings(tmp_path_factory.mktemp("server"))
    with Live(Platform.open(settings, build)) as server:
        server.http.post("/v1/flags", json={"definitions": FLAGS}).raise_for_status()
        yield server, settings.storage.data


def test_a_process_decides_as_the_server_and_its_exposures_are_verified(
    live: tuple[Live, Path],
) -> None:
    server, data = live
    attributes = {"country": "CH", "email": "ada@shop.example"}
    with LocalFlags(server.url) as flags:
        for user in ("u-1", "u-2", "用户"):
            body = {"user_id": user, "attributes": attributes, "log": False}
            told = server.http.post("/v1/assign", json=body).json()["flags"]
            unit = flags.for_unit(user_id=user, attributes=attributes)
            own = {key: unit.value(key, None) for key in told}
            assert own == {key: each["value"] for key, each in told.items()}

    def verified() -> set[str | None]:
        found = [entry for entry in logged(data) if isinstance(entry, Event)]
        return {it.user_id for it in found if it.type == EXPOSURE and is_verified(it)}

    wait_until(lambda: verified() == {"u-1", "u-2", "用户"})


def test_a_kill_is_announced(live: tuple[Live, Path]) -> None:
    server, _ = live
    flags = LocalFlags(server.url, updates=Updates(poll_s=3_600))
    with flags:
        wait_until(lambda: flags._stream is not None)
        unit = flags.for_unit(attributes={"country": "CH"})
        assert unit.is_on("new-cart")
        answer = server.http.post("/v1/flags/new-cart/kill", json={"reason": "no orders"})
        answer.raise_for_status()
        wait_until(lambda: unit.explain("new-cart").source == "off")
        assert not unit.is_on("new-cart")
    assert not any(thread.is_alive() for thread in flags._threads)
