import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tactful_streaming.contract.log_entries import Event, decode_entry, encode_entry
from tactful_streaming.errors import StateError
from tactful_streaming.sinks import webhook
from tactful_streaming.sinks.webhook import Answer, DeliveryQueue, SendResult, WebhookSender
from tactful_streaming.state.store import MemoryState

URL = "http://127.0.0.1:9/hook"


def action(number: int, type_: str = "x.coupon", user: str = "u") -> Event:
    return Event(event_id=f"e{number}", type=type_, timestamp=number, user_id=user)


class Shelf:
    """A log, as far as the sender reads it."""

    def __init__(self, payloads: list[bytes], begin: int = 0) -> None:
        self.payloads, self.begin = payloads, begin

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        assert offset >= self.begin
        return list(enumerate(self.payloads))[offset : offset + limit]


class Receiver:
    """Stands in for the network: answers from a list, then with 200."""

    def __init__(self, *answers: Answer | Exception) -> None:
        self.answers, self.requests = list(answers), list[tuple[str, bytes, dict[str, str]]]()

    def __call__(self, url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> Answer:
        self.requests.append((url, body, dict(headers)))
        answer = self.answers.pop(0) if self.answers else Answer(200)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Clock:
    now = 1_000_000

    def __call__(self) -> int:
        return self.now


def sender(queue: DeliveryQueue, receiver: Receiver, clock: Clock, **more: Any) -> WebhookSender:
    return WebhookSender(queue, URL, clock=clock, post=receiver, jitter=lambda: 0.0, **more)


def test_actions_are_delivered_once_without_failures() -> None:
    log: Any = Shelf(
        [
            encode_entry(action(0)),
            b"no entry",
            encode_entry(action(2, "view")),
            encode_entry(action(3), "json"),
            encode_entry(action(4)),
        ]
    )
    queue, receiver = DeliveryQueue(MemoryState()), Receiver()
    hook = sender(queue, receiver, Clock())
    assert hook.collect(log, {"x.coupon"}, limit=3) == 3
    assert hook.collect(log, {"x.coupon"}) == 2
    assert hook.collect(log, {"x.coupon"}) == 0
    assert hook.send_due() == SendResult(delivered=3)
    assert hook.send_due() == SendResult()
    assert [headers["Idempotency-Key"] for _, _, headers in receiver.requests] == ["e0", "e3", "e4"]
    assert decode_entry(receiver.requests[0][1]) == action(0)
    assert queue.next_due() is None


def test_a_trimmed_log_is_followed_from_its_beginning() -> None:
    log: Any = Shelf([encode_entry(action(n)) for n in range(4)], begin=2)
    queue, receiver = DeliveryQueue(MemoryState()), Receiver()
    hook = sender(queue, receiver, Clock())
    assert hook.collect(log, {"x.coupon"}) == 2
    assert queue.position == 4


def test_failures_are_retried_with_growing_waits() -> None:
    clock, state = Clock(), MemoryState()
    queue = DeliveryQueue(state)
    receiver = Receiver(Answer(500), TimeoutError(), Answer(302), ConnectionRefusedError())
    hook = sender(queue, receiver, clock)
    queue.add([action(1)], 1)
    waits = []
    while hook.send_due().failed:
        next_due = queue.next_due()
        assert next_due is not None
        waits.append(next_due - clock.now)
        clock.now = next_due - 1
        assert hook.send_due() == SendResult(), "too early"
        clock.now = next_due
        queue = DeliveryQueue(state)  # a restart in between
        hook = sender(queue, receiver, clock)
    assert waits == [1000, 2000, 4000, 8000]
    assert len(receiver.requests) == 5
    assert len({body for _, body, _ in receiver.requests}) == 1
    assert {headers["Idempotency-Key"] for _, _, headers in receiver.requests} == {"e1"}


def test_retry_after_is_used_up_to_the_longest_wait() -> None:
    clock, queue = Clock(), DeliveryQueue(MemoryState())
    receiver = Receiver(Answer(429, 30.0), Answer(503, 1e9), Answer(503, 0.0))
    hook = sender(queue, receiver, clock, policy=webhook.RetryPolicy(longest_ms=60_000))
    queue.add([action(1)], 1)
    for wait in (30_000, 60_000, 4000):
        assert hook.send_due().failed == 1
        assert queue.next_due() == clock.now + wait
        clock.now += wait
    assert hook.send_due().delivered == 1


def test_jitter_shortens_a_wait_by_a_quarter_at_most() -> None:
    clock, queue = Clock(), DeliveryQueue(MemoryState())
    hook = WebhookSender(
        queue, URL, clock=clock, post=Receiver(Answer(500)), jitter=lambda: 0.999999
    )
    queue.add([action(1)], 1)
    hook.send_due()
    assert queue.next_due() == clock.now + 750


def test_a_delivery_is_dead_after_the_last_attempt() -> None:
    clock, state = Clock(), MemoryState()
    queue = DeliveryQueue(state)
    receiver = Receiver(Answer(404), Answer(200), Answer(404), Answer(410))
    hook = sender(queue, receiver, clock, policy=webhook.RetryPolicy(attempts=3))
    queue.add([action(1), action(2)], 2)
    assert hook.send_due() == SendResult(delivered=1, failed=1)
    clock.now += 10_000
    assert hook.send_due() == SendResult(failed=1)
    clock.now += 10_000
    assert hook.send_due() == SendResult(dead=1)
    assert hook.send_due() == SendResult()
    queue = DeliveryQueue(state)
    (dead,) = queue.dead
    assert (dead.event_id, dead.attempts, dead.problem) == ("e1", 3, "answered with status 410")
    assert queue.revive() == 1
    assert queue.dead == []
    assert sender(DeliveryQueue(state), receiver, clock).send_due() == SendResult(delivered=1)


def test_a_crash_before_the_answer_repeats_with_the_same_key() -> None:
    class Killed(BaseException):
        pass

    class Dying(DeliveryQueue):
        def done(self, delivery: Any) -> None:
            raise Killed

    state, receiver = MemoryState(), Receiver()
    queue = Dying(state)
    queue.add([action(1)], 1)
    with pytest.raises(Killed):
        sender(queue, receiver, Clock()).send_due()
    again = DeliveryQueue(state)
    assert again.position == 1
    assert sender(again, receiver, Clock()).send_due() == SendResult(delivered=1)
    assert [headers["Idempotency-Key"] for _, _, headers in receiver.requests] == ["e1", "e1"]


def test_a_damaged_queue_is_refused() -> None:
    state = MemoryState()
    DeliveryQueue(state).add([action(1)], 1)
    state.write([(b"we1", b"\xc1")])
    with pytest.raises(StateError, match="begin an empty one"):
        DeliveryQueue(state)


@pytest.mark.parametrize("url", ["", "file:///etc/passwd", "ftp://h/x", "http://", "example.com/x"])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="http or https"):
        WebhookSender(DeliveryQueue(MemoryState()), url, clock=Clock())


def test_a_signature_is_bound_to_body_secret_and_time() -> None:
    signature = webhook.sign(b"secret", b"body", 1000)
    assert webhook.verify_signature(b"secret", b"body", signature, now=1200)
    assert not webhook.verify_signature(b"secret", b"bodY", signature, now=1200)
    assert not webhook.verify_signature(b"other", b"body", signature, now=1200)
    assert not webhook.verify_signature(b"secret", b"body", signature, now=1301)
    assert not webhook.verify_signature(b"secret", b"body", signature, now=699)
    later = signature.replace("t=1000", "t=1200")
    assert not webhook.verify_signature(b"secret", b"body", later, now=1200)
    for bad in ("", "t=,v1=", "t=-1,v1=", "t=²,v1=", "v1=abc", "t=" + "9" * 99, "\xff"):
        assert not webhook.verify_signature(b"secret", b"body", bad, now=1200)


def test_each_request_is_signed_anew() -> None:
    clock, queue = Clock(), DeliveryQueue(MemoryState())
    receiver = Receiver(Answer(500))
    hook = sender(queue, receiver, clock, secret=b"secret")
    queue.add([action(1)], 1)
    hook.send_due()
    clock.now += 5000
    hook.send_due()
    for (_, body, headers), now in zip(receiver.requests, (1000, 1005), strict=True):
        assert headers[webhook.SIGNATURE_HEADER].startswith(f"t={now},")
        assert webhook.verify_signature(b"secret", body, headers[webhook.SIGNATURE_HEADER], now=now)


@pytest.fixture
def server() -> Iterator[tuple[str, list[tuple[str, dict[str, str], bytes]]]]:
    seen: list[tuple[str, dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.path, dict(self.headers.items()), body))
            status = int(self.path.strip("/") or 200)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/200")
            if status == 503:
                self.send_header("Retry-After", "7")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{httpd.server_address[1]}", seen
        finally:
            httpd.shutdown()
            thread.join()


def test_over_http(server: tuple[str, list[tuple[str, dict[str, str], bytes]]]) -> None:
    url, seen = server
    queue = DeliveryQueue(MemoryState())
    queue.add([action(1)], 1)
    assert WebhookSender(queue, url + "/200", clock=Clock()).send_due() == SendResult(delivered=1)
    path, headers, body = seen[0]
    assert path == "/200"
    assert headers["Idempotency-Key"] == "e1"
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body)["event_id"] == "e1"
    assert webhook.post_request(url + "/503", b"", {}, 5.0) == Answer(503, 7.0)
    assert webhook.post_request(url + "/302", b"", {}, 5.0) == Answer(302)
    assert [p for p, _, _ in seen] == ["/200", "/503", "/302"], "the redirect was followed"


def test_an_unreachable_address_is_retried() -> None:
    clock, queue = Clock(), DeliveryQueue(MemoryState())
    queue.add([action(1)], 1)
    hook = WebhookSender(queue, "http://127.0.0.1:1/x", clock=clock, jitter=lambda: 0.0)
    assert hook.send_due() == SendResult(failed=1)
    assert queue.next_due() == clock.now + 1000


def test_actions_of_erased_users_are_not_queued() -> None:
    clock, receiver, suppressed = Clock(), Receiver(), set[str]()
    store = MemoryState()
    queue = DeliveryQueue(store)
    webhooks = sender(queue, receiver, clock, suppressed=suppressed)
    people = ("zq-ada", "bob", "zq-ada", "bob")
    log: Any = Shelf([encode_entry(action(n, user=user)) for n, user in enumerate(people)])
    assert webhooks.collect(log, {"x.coupon"}, 2) == 2
    queue.mark_dead(queue.due(clock(), 9)[0])
    queue.revive()
    (waiting,) = (d for d in queue.due(clock(), 9) if b"zq-ada" in d.body)
    suppressed.add("zq-ada")
    assert webhooks.collect(log, {"x.coupon"}) == 2
    assert [d.event_id for d in queue.due(clock(), 9)] == ["e0", "e1", "e3"]
    assert queue.remove(lambda delivery: b"zq-ada" in delivery.body) == 1
    queue.retry(waiting)  # by whoever was sending it just then
    queue.mark_dead(waiting)
    assert webhooks.send_due() == SendResult(delivered=2)
    assert all(b"zq-ada" not in body for _, body, _ in receiver.requests)
    assert not any(b"zq-ada" in value for _, value in store.scan(b""))


def test_queued_actions_of_erased_users_are_not_sent() -> None:
    receiver, suppressed = Receiver(), set[str]()
    queue = DeliveryQueue(MemoryState())
    queue.add([action(0, user="ada"), action(1, user="bob")], 2)
    suppressed.add("ada")
    hook = sender(queue, receiver, Clock(), suppressed=suppressed)
    assert hook.send_due() == SendResult(delivered=1)
    assert [b"bob" in body for _, body, _ in receiver.requests] == [True]
    assert queue.next_due() is None
