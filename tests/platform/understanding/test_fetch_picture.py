"""Fetching of pictures: public hosts alone, whatever names, redirects and servers claim."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.platform.understanding.tiny_picture_model import plain_picture, write_picture_model

from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.config.understanding import UnderstandingSettings
from tactful.errors import PictureError
from tactful.models.encode_catalogue import Encoded, described, encode_catalogue
from tactful.understanding.fetch_picture import Fetching, fetch_picture, is_public
from tactful.understanding.fetch_pictures import fetch_pictures
from tactful.understanding.item_vectors import Part, name_of, stored_vectors
from tactful.understanding.picture_encoder import OnnxPictureEncoder
from tactful.understanding.picture_store import Fetched, PictureStore
from tactful.understanding.vector_store import content_key
from tactful_streaming.contract.log_entries import Item

pytest.importorskip("PIL")

PNG = plain_picture((0, 0, 200))
ENDED = threading.Event()


class Server(BaseHTTPRequestHandler):
    """Answers by the path; `asked` lists the paths and hosts of all requests."""

    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        type(self).asked.append((self.path, self.headers["Host"]))
        name = self.path.strip("/").partition("?")[0]
        if name.startswith("to"):
            self._head(302, Location=self.path.partition("?")[2])
        elif name == "drip":  # a byte of the head each time, for ever
            while not ENDED.wait(0.02):
                self.wfile.write(b"x")
        elif name == "endless":
            self._head(200, **{"Content-Type": "image/png"})
            while not ENDED.is_set():
                self.wfile.write(bytes(65_536))
        elif name == "short":
            self._head(200, **{"Content-Type": "image/png", "Content-Length": "10000"})
            self.wfile.write(PNG)
        elif name == "packed":
            self._head(200, **{"Content-Type": "image/png", "Content-Encoding": "gzip"})
        elif name == "missing":
            self._head(404)
        else:
            self._head(
                200,
                **{
                    "Content-Type": {"page": "text/html", "jpeg": "image/jpeg"}.get(
                        name, "image/png"
                    )
                },
            )
            self.wfile.write(PNG)

    def _head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header, value)
        self.end_headers()

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # the other end has heard enough
            super().handle()

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    ENDED.clear()  # other tests may have run between two of this module, and ended a former server
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server.server_port
    ENDED.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def limits(port: int) -> Fetching:
    """Limits of a world where the one public address is the loopback of this machine."""
    return Fetching(
        permitted=lambda address: address == "127.0.0.1",
        resolve=lambda host, _: {
            "shop.example": ["127.0.0.1"],
            "meta.example": ["169.254.169.254"],
        }.get(host, [host]),
        ports=(80, port),
        most_bytes=100_000,
    )


def at(port: int, path: str, host: str = "shop.example") -> str:
    return f"http://{host}:{port}/{path}"


def test_a_picture_is_fetched(port: int, limits: Fetching) -> None:
    assert fetch_picture(at(port, "blue.png?size=2#top"), limits) == (PNG, "image/png")
    assert Server.asked[-1] == ("/blue.png?size=2", f"shop.example:{port}")
    assert fetch_picture(at(port, "to?/to2?/blue.png"), limits)[0] == PNG


def test_a_name_is_resolved_once_and_its_address_is_the_one_connected_to(
    port: int, limits: Fetching
) -> None:
    answers = [["127.0.0.1"], ["10.0.0.1"]]  # a name that changes once it was checked
    asked: list[str] = []

    def resolve(host: str, _: int) -> Sequence[str]:
        asked.append(host)
        return answers[len(asked) - 1]

    changed = Fetching(limits.permitted, resolve, limits.ports)
    assert fetch_picture(at(port, "blue.png"), changed)[0] == PNG
    assert asked == ["shop.example"]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://meta.example/latest", "public"),
        ("http://169.254.169.254/latest", "public"),
        ("http://[::1]/", "public"),
        ("http://localhost.example:22/", "port 22"),
        ("http://user:secret@shop.example/x.png", "password"),
        ("ftp://shop.example/x.png", "http"),
        ("file:///etc/passwd", "http"),
        ("http:///x.png", "http"),
        ("http://shop.example/x y.png", "%xx"),
        ("http://shop.example/x\r\nHost: other", "%xx"),
        ("http://shop.example:port/", "ValueError"),
        ("http://[::1", "ValueError"),
        ("HERE/to?http://meta.example/latest", "public"),
        ("HERE/to?file:///etc/passwd", "http"),
        ("HERE/to?//10.0.0.1/", "public"),
        ("HERE/to", "leads on"),
        ("HERE/page", "text/html"),
        ("HERE/packed", "compressed"),
        ("HERE/missing", "404"),
        ("HERE/short", "IncompleteRead|ended before"),
        ("HERE/endless", "100,000 bytes"),
    ],
)
def test_lies_are_refused(address: str, message: str, port: int, limits: Fetching) -> None:
    with pytest.raises(PictureError, match=message):
        fetch_picture(address.replace("HERE/", at(port, "")), limits)


def test_a_mixed_answer_of_names_is_refused(port: int, limits: Fetching) -> None:
    mixed = Fetching(limits.permitted, lambda *_: ["127.0.0.1", "127.0.0.2"], limits.ports)
    with pytest.raises(PictureError, match="public"):
        fetch_picture(at(port, "blue.png"), mixed)
    nothing = Fetching(limits.permitted, lambda *_: [], limits.ports)
    with pytest.raises(PictureError, match="public"):
        fetch_picture(at(port, "blue.png"), nothing)


@contextlib.contextmanager
def silent_server(answer: bytes) -> Iterator[int]:
    """Accept a connection, and send `answer` and then a byte each time, until it is closed."""
    listener = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        opened, _ = listener.accept()
        with opened, contextlib.suppress(OSError):
            opened.sendall(answer)
            while True:
                time.sleep(0.01)
                opened.sendall(b"x")

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.close()
    thread.join()


def test_a_handshake_ends_in_time() -> None:
    with silent_server(b"\x16\x03\x03\x3f\xff") as port:  # a record of 16 kB
        limits = Fetching(lambda _: True, lambda *_: ["127.0.0.1"], [port], seconds=0.2)
        with pytest.raises(PictureError, match=r"within 0\.2 s"):
            fetch_picture(f"https://shop.example:{port}/", limits)


def test_a_slow_name_does_not_outlast_the_time_of_the_answer(port: int) -> None:
    """The time passes while there is no connection yet that could be closed."""

    def resolve(*_: object) -> list[str]:
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.join()
        return ["127.0.0.1"]

    limits = Fetching(lambda _: True, resolve, [port], seconds=0.1)
    with pytest.raises(PictureError, match=r"within 0\.1 s"):
        fetch_picture(at(port, "drip"), limits)


def test_a_slow_server_is_left(port: int, limits: Fetching) -> None:
    hasty = Fetching(limits.permitted, limits.resolve, limits.ports, seconds=0.2)
    with pytest.raises(PictureError, match=r"within 0\.2 s"):
        fetch_picture(at(port, "drip"), hasty)


def test_the_default_lets_nothing_private_through(port: int) -> None:
    for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0.0.0.0"):
        with pytest.raises(PictureError):
            fetch_picture(f"http://{host}/")
    private = (
        *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.8.8.8", "169.254.169.254", "172.16.0.1"),
        *("192.168.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "239.1.1.1", "255.255.255.255"),
        *("::", "::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "fc00::1"),
        *("192.88.99.1", "fec0::1", "fe80::1", "ff02::1", "2001:db8::1", "2001:0:7f00:1::1"),
    )
    assert not any(map(is_public, private))
    assert is_public("8.8.8.8") and is_public("2606:4700::1111") and is_public("::ffff:8.8.8.8")


def test_pictures_are_fetched_once_and_refusals_are_kept(
    port: int, limits: Fetching, tmp_path: Path
) -> None:
    store = PictureStore(tmp_path / "pictures.db", writes=True)
    now, day = 10, 86_400_000
    images = [
        "",
        f"sha256:{'0' * 64}",
        "data:image/png;base64,AA==",  # of an item that came past the server
        *(at(port, path) for path in ("a", "b", "page", "jpeg", "a")),
    ]

    def fetched(at_: int) -> tuple[int, list[str]]:
        Server.asked.clear()
        found = fetch_pictures(images, store, clock=lambda: at_, limits=limits)
        assert all(found.refused.values())
        return found.new, sorted(address.rpartition("/")[2] for address in found.refused)

    for at_, new, asked in ((now, 2, 4), (now + 1, 0, 0), (now + day, 0, 2)):
        assert fetched(at_) == (new, ["jpeg", "page"]), "refusals are shown each time"
        assert len(Server.asked) == asked
    known = store.fetched(images)
    assert known[at(port, "a")].content == content_key(PNG) and len(known) == 4
    assert "text/html" in known[at(port, "page")].problem
    assert store.held([content_key(PNG)])
    store.close()


def test_a_picture_is_deleted_a_week_after_its_last_item(tmp_path: Path) -> None:
    """An import that replaced the pictures of a catalogue can be undone."""
    store, week = PictureStore(tmp_path / "pictures.db", writes=True), 7 * 86_400_000
    store.note("https://shop.example/a", Fetched(b"b", "", 5))
    store.put({b"a": b"1", b"b": b"2"}, 5)
    assert store.keep_only([b"a"], [], week + 5) == 0, "sent by a request a week ago, not longer"
    assert store.fetched(["https://shop.example/a"]) == {}
    assert store.keep_only([b"a"], [], week + 6) == 1
    for now in (9 * week, 10 * week, 10 * week):  # the week begins when it is given up
        assert store.keep_only([], [], now) == 0
    assert store.keep_only([b"a"], [], 12 * week) == 0, "an item has it again"
    assert store.keep_only([], [], 12 * week) == store.keep_only([], [], 13 * week) == 0
    store.use([b"a"], 13 * week)
    assert store.keep_only([], [], 14 * week) == 0 and store.held([b"a"])
    assert store.keep_only([], [], 14 * week + 1) == 1 and not store.held([b"a"])
    store.close()


@pytest.mark.parametrize("fetches", [True, False])
def test_items_are_encoded_by_pictures_of_addresses(
    port: int, limits: Fetching, tmp_path: Path, fetches: bool
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    model = str(write_picture_model(tmp_path / "mine"))
    chosen = Settings(
        storage=StorageSettings(data=tmp_path / "data"),
        understanding=UnderstandingSettings(picture_model=model, fetch_pictures=fetches),
    )
    items = [
        Item(item_id=path, timestamp=0, image=at(port, path)) for path in ("a", "page", "jpeg")
    ]
    Server.asked.clear()
    found = encode_catalogue(chosen, map(described, items), limits=limits)
    if not fetches:
        assert found == Encoded(0, 0, 0) and not Server.asked
        return
    assert (found.new, found.fetched, len(found.refused)) == (1, 1, 2)
    opened = stored_vectors(chosen)
    assert opened is not None
    name = OnnxPictureEncoder(Path(model)).name
    vectors = opened(name_of([Part("picture", name, 3)]))
    assert vectors.of(items).any(axis=1).tolist() == [True, False, False]
    vectors.close()
    again = encode_catalogue(chosen, map(described, items), limits=limits)
    assert again == Encoded(0, 1, 0, 0, found.refused) and len(Server.asked) == 3
