import asyncio
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest
from tests.streaming.brokers import Proxy, broker_behind_proxy, new_log, patiently

from tactful_streaming.errors import (
    BackpressureError,
    LogError,
    LogLockedError,
    LogUnreachableError,
    LogWriteError,
)
from tactful_streaming.log.event_log import Positions
from tactful_streaming.log.group_commit import KeyedCommit
from tactful_streaming.log.outage_spool import _SEND_RECORDS, Spool


class FlakyLog:
    """A log of one partition that can be absent, slow or stubborn."""

    partitions = 1

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.absent = False
        self.stubborn = False
        self.held: list[Callable[[], None]] | None = None
        self._lock = threading.Lock()

    def partition_of(self, key: str) -> int:
        return 0

    def submit(self, payloads: Sequence[bytes], keys: Sequence[str | None]) -> Future[Positions]:
        if self.absent:
            raise LogUnreachableError("no broker answers", retry_after=1)
        done: Future[Positions] = Future()

        def land() -> None:
            with self._lock:
                if self.absent:
                    done.set_exception(LogUnreachableError("timed out", retry_after=1))
                elif self.stubborn:
                    done.set_exception(LogWriteError("refused"))
                else:
                    self.records += payloads
                    done.set_result({0: len(self.records)})

        if self.held is not None:
            self.held.append(land)
        else:
            land()
        return done

    def let_land(self) -> None:
        held, self.held = self.held or [], None
        for land in held:
            land()

    def close(self) -> None:
        pass


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


def spooled(spool: Spool, count: int, start: int = 0) -> Positions:
    return spool.append(numbered(count, start), ["u"] * count)


def test_it_stays_out_of_the_way(tmp_path: Path) -> None:
    log = FlakyLog()
    with Spool(log, tmp_path) as spool:
        assert spooled(spool, 3) == {0: 3}
        assert (spool.spooling, spool.waiting) == (False, 0)
        assert (spool.partitions, spool.partition_of("u")) == (1, 0)
    assert log.records == numbered(3)
    with pytest.raises(LogError, match="closed"):
        spooled(spool, 1)


def test_what_comes_in_an_outage_waits_on_disk_and_arrives_in_order(tmp_path: Path) -> None:
    log = FlakyLog()
    with Spool(log, tmp_path) as spool:
        spooled(spool, 2)
        log.absent = True
        for start in range(2, 1000, 3):
            assert spooled(spool, 3, start) == {}
        assert spool.spooling
        assert spool.waiting == 999
        log.absent = False
        patiently(lambda: not spool.spooling)
        assert spooled(spool, 1, 1001) == {0: 1002}
    assert log.records == numbered(1002)


def test_appends_in_flight_when_the_outage_begins_are_kept(tmp_path: Path) -> None:
    log = FlakyLog()
    with Spool(log, tmp_path) as spool:
        log.held = []
        flying = [spool.submit([b"%d" % n], ["u"]) for n in range(5)]
        log.absent = True
        log.let_land()
        assert [it.result(120) for it in flying] == [{}] * 5
        log.absent = False
        patiently(lambda: not spool.spooling)
    assert log.records == numbered(5)


def test_the_next_process_sends_what_the_last_could_not(tmp_path: Path) -> None:
    log = FlakyLog()
    log.absent = True
    with Spool(log, tmp_path) as spool:
        spooled(spool, 2500)
        with pytest.raises(LogLockedError):
            Spool(log, tmp_path)
    log.absent = False
    with Spool(log, tmp_path) as spool:
        # It is behind what waits, though the log could take it at once.
        spooled(spool, 1, 2500)
        patiently(lambda: not spool.spooling)
    assert log.records == numbered(2501)
    with Spool(log, tmp_path) as spool:
        assert (spool.spooling, spool.waiting) == (False, 0)


def test_nothing_overtakes_what_was_acknowledged(tmp_path: Path) -> None:
    """Four senders, each waiting for its answer, through a log that comes and goes."""
    log = FlakyLog()
    acknowledged: list[list[bytes]] = [[] for _ in range(4)]
    stop = threading.Event()

    def send(spool: Spool, name: int) -> None:
        while not stop.is_set():
            payload = b"%d %d" % (name, len(acknowledged[name]))
            spool.append([payload], [f"{name}"])
            acknowledged[name].append(payload)

    rng = random.Random(7)
    with Spool(log, tmp_path, durability="process") as spool:
        senders = [threading.Thread(target=send, args=(spool, name)) for name in range(4)]
        for sender in senders:
            sender.start()
        for _ in range(30):
            time.sleep(rng.random() * 0.04)
            log.absent = not log.absent
        log.absent = False
        stop.set()
        for sender in senders:
            sender.join()
        patiently(lambda: not spool.spooling)
    for name, payloads in enumerate(acknowledged):
        assert [it for it in log.records if it.startswith(b"%d " % name)] == payloads
    assert sum(map(len, acknowledged)) == len(log.records) > 100


def test_a_crash_between_sending_and_noting_it_repeats_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FlakyLog()
    log.absent = True
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "_write_sent", lambda self: None)
        with Spool(log, tmp_path) as spool:
            spooled(spool, 5)
            log.absent = False
            patiently(lambda: not spool.spooling)
    with Spool(log, tmp_path) as spool:
        patiently(lambda: not spool.spooling)
    assert log.records == numbered(5) * 2


@pytest.mark.parametrize("rubbish", ["", "x", "-5", "99999999999"])
def test_a_spoilt_note_of_what_was_sent(tmp_path: Path, rubbish: str) -> None:
    log = FlakyLog()
    log.absent = True
    with Spool(log, tmp_path) as spool:
        spooled(spool, 3)
    (tmp_path / "sent").write_text(rubbish)
    log.absent = False
    with Spool(log, tmp_path) as spool:
        patiently(lambda: not spool.spooling)
    assert log.records == numbered(3)


def test_the_disk_is_bounded_and_freed(tmp_path: Path) -> None:
    log = FlakyLog()
    log.absent = True
    with Spool(log, tmp_path, max_bytes=100_000, durability="process") as spool:
        accepted = 0
        with pytest.raises(BackpressureError, match="max_bytes") as caught:
            while True:
                spool.append([b"x" * 1000], ["u"])
                accepted += 1
        assert caught.value.retry_after > 0
        assert 80 < accepted < 100
        log.absent = False
        patiently(lambda: not spool.spooling)
        assert len(log.records) == accepted
        assert sum(file.stat().st_size for file in tmp_path.glob("*.log")) <= 30_000


def test_what_the_log_refuses_for_good_is_not_spooled(tmp_path: Path) -> None:
    log = FlakyLog()
    log.stubborn = True
    with Spool(log, tmp_path) as spool:
        with pytest.raises(LogWriteError, match="refused"):
            spooled(spool, 1)
        assert not spool.spooling


def test_what_was_acknowledged_is_never_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = FlakyLog()
    log.absent = True
    with Spool(log, tmp_path) as spool:
        spooled(spool, 3)
        log.stubborn, log.absent = True, False
        patiently(lambda: "cannot be sent on" in caplog.text)
        assert spool.waiting == 3
    log.stubborn = False
    with Spool(log, tmp_path) as spool:
        patiently(lambda: not spool.spooling)
    assert log.records == numbered(3)


def test_a_disk_that_refuses_acknowledges_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = FlakyLog()
    log.absent = True
    with Spool(log, tmp_path) as spool:

        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("os.pwrite", full)
            with pytest.raises(LogWriteError, match="No space left"):
                spooled(spool, 1)
        spooled(spool, 2)
        log.absent = False
        patiently(lambda: not spool.spooling)
    assert log.records == numbered(2)


def cut_for(proxy: Proxy, seconds: float) -> None:
    time.sleep(0.3)
    proxy.cut()
    time.sleep(seconds)
    proxy.restore()


@pytest.mark.parametrize("seconds", [0.5, 3.0])
def test_an_outage_of_kafka(tmp_path: Path, seconds: float) -> None:
    """Requests go on being accepted, and all that was acknowledged is in Kafka afterwards."""
    acknowledged: list[bytes] = []

    async def send(spool: Spool, until: float) -> None:
        commit = KeyedCommit(spool)

        async def client(name: int) -> None:
            number = 0
            while time.monotonic() < until:
                payload = b"%d %d" % (name, number)
                await commit.append_keyed([payload], [f"{name}"])
                acknowledged.append(payload)
                number += 1

        await asyncio.gather(*(client(name) for name in range(6)))
        await commit.close()

    with (
        broker_behind_proxy() as (broker, proxy),
        new_log(broker.servers, linger_ms=1, delivery_timeout_ms=1500) as log,
        Spool(log, tmp_path, durability="process") as spool,
    ):
        outage = threading.Thread(target=cut_for, args=(proxy, seconds))
        outage.start()
        asyncio.run(send(spool, time.monotonic() + seconds + 1.5))
        outage.join()
        patiently(lambda: not spool.spooling)
        found: dict[int, list[bytes]] = {}
        for number in range(log.partitions):
            partition = log.partition(number)
            records: list[bytes] = []
            while len(records) < log.known_end(number):
                records += [payload for _, payload in partition.read(len(records), 1000)]
            partition.close()
            found[number] = records
        again = 0
        for name in range(6):
            sent = [it for it in acknowledged if it.split()[0] == b"%d" % name]
            arrived = [
                it for it in found[log.partition_of(f"{name}")] if it.split()[0] == b"%d" % name
            ]
            # Once each, but for what an outage made uncertain: what is on its way when it begins,
            # and a batch that the spool sends on too soon. The first of each are in order.
            assert list(dict.fromkeys(arrived)) == sent
            again += len(arrived) - len(sent)
        assert again <= 2 * 6 + _SEND_RECORDS
