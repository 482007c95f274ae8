"""Server of the shop: its pages, and calls to the platform that a page has no rights for.

A page sends events and requests lists with the browser client. The shop's server links a device to
the user who logs in, and requests arms and explanations.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from threading import Thread
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Meta

from tactful.client import Client
from tactful.demo.shop.goods import CATEGORIES, Good
from tactful.demo.shop.pictures import picture
from tactful.errors import ApiError, ClientError, TactfulError
from tactful.schemas.browser_access import is_this_machine
from tactful.util.clock import now_ms

LOG = logging.getLogger(__name__)

_HOST = "127.0.0.1"
_MOST_BYTES = 65_536
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "json": "application/json",
}
_FILES = {
    **{name: f"page/{name}" for name in ("index.html", "icon.svg", "shop.css")},
    **{name: f"page/{name}" for name in ("shop.js", "intent.js", "view.js")},
    "favicon.ico": "page/icon.svg",
    "client/tactful.js": "client/tactful.js",
}

Id = Annotated[str, Meta(min_length=1, max_length=256)]


class _Login(msgspec.Struct, forbid_unknown_fields=True):
    device_id: Id
    user_id: Id


class _Logout(msgspec.Struct, forbid_unknown_fields=True):
    device_id: Id


class _Recommend(msgspec.Struct, forbid_unknown_fields=True):
    arm: Id
    request: dict[str, Any]
    device_id: Id | None = None


class _Why(msgspec.Struct, forbid_unknown_fields=True):
    recommendation_id: Id


class _Find(msgspec.Struct, forbid_unknown_fields=True):
    search: Annotated[str, Meta(max_length=256)]


@dataclass(frozen=True)
class Shop:
    """Goods, customers and arms of a shop.

    Attributes:
        goods: the items.
        customers: users to log in as: id and what is known of them.
        arms: arms of the experiment on the ranking: name and what it does.
        experiment: key of that experiment.
    """

    goods: tuple[Good, ...]
    customers: Mapping[str, str]
    arms: Mapping[str, str]
    experiment: str


class Site:
    """Answers of the shop's server."""

    def __init__(self, shop: Shop, client: Client, platform: str) -> None:
        """Answer by `client`; pages call the server at `platform`."""
        self._shop = shop
        self._client = client
        self.platform = platform
        self._goods = {good.item_id: good for good in shop.goods}
        self._posts: dict[str, tuple[type[Any], Callable[[Any], object]]] = {
            "/login": (_Login, self._login),
            "/logout": (_Logout, self._logout),
            "/recommend": (_Recommend, self._recommend),
            "/why": (_Why, self._why),
            "/find": (_Find, self._find),
        }

    def get(self, path: str) -> tuple[str, bytes] | None:
        """Return the content type and the content at `path`; None if there is nothing."""
        name = path.strip("/") or "index.html"
        if name in _FILES:
            content = files("tactful.demo.shop").joinpath(_FILES[name]).read_bytes()
            return _TYPES[_FILES[name].rpartition(".")[2]], content
        if name == "shop.json":
            return _TYPES["json"], self._description
        folder, _, item = name.partition("/")
        good = self._goods.get(unquote(item.removesuffix(".svg")))
        if folder != "pictures" or good is None:
            return None
        return _TYPES["svg"], picture(good).encode()

    def post(self, path: str, body: bytes) -> object | None:
        """Carry out a call of a page; None if there is no such call.

        Raises:
            msgspec.DecodeError: if the body is wrong.
            ClientError: if the platform refuses, or cannot be reached.
        """
        if path not in self._posts:
            return None
        kind, call = self._posts[path]
        return call(msgspec.json.decode(body, type=kind))

    @cached_property
    def _description(self) -> bytes:
        """Description of the shop for its pages, as JSON."""
        shop = self._shop
        return json.dumps(
            {
                "platform": self.platform,
                "categories": [category.name for category in CATEGORIES],
                "customers": dict(shop.customers),
                "arms": dict(shop.arms),
                "goods": [
                    {"item_id": good.item_id, "title": good.title}
                    | {"category": good.category, "price": good.price}
                    for good in shop.goods
                ],
            }
        ).encode()

    def _login(self, call: _Login) -> object:
        self._link("x.login", device_id=call.device_id, user_id=call.user_id)
        return {"user_id": call.user_id}

    def _logout(self, call: _Logout) -> object:
        self._link("x.logout", device_id=call.device_id)
        return {}

    def _link(self, kind: str, **ids: str) -> None:
        """Send an event about a device, and wait until it counts."""
        sent = self._client.events([{"type": kind, "timestamp": now_ms(), **ids}])
        if sent.rejected:
            raise TactfulError(sent.rejected[0].message)
        self._client.item(self._shop.goods[0].item_id, after=sent.position)

    def _recommend(self, call: _Recommend) -> object:
        force = {self._shop.experiment: call.arm}
        request = {**call.request, "force": force, "device_id": call.device_id}
        return self._client.recommend(**request)

    def _why(self, call: _Why) -> object:
        return self._client.explain(call.recommendation_id)

    def _find(self, call: _Find) -> object:
        return self._client.find_items(search=call.search, limit=100)


def socket_at(port: int) -> socket.socket:
    """Take a port of this machine; browsers that connect wait until something serves it.

    Raises:
        TactfulError: if the port is taken.
    """
    try:
        return socket.create_server((_HOST, port))
    except (OSError, OverflowError) as error:
        raise TactfulError(f"port {port} cannot be used: {error}; name another --port") from error


@contextmanager
def serving(listening: socket.socket, site: Site) -> Iterator[str]:
    """Serve `site` in a thread as long as the context lasts; gives its address."""
    address = listening.getsockname()
    handler = type("Handler", (_Handler,), {"site": site})
    server = ThreadingHTTPServer(address, handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield f"http://{_HOST}:{address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    """One connection to the shop's server."""

    protocol_version = "HTTP/1.1"
    timeout = 30
    site: Site

    def do_GET(self) -> None:
        """Send a file."""
        if not self._is_local():
            return
        found = self.site.get(urlsplit(self.path).path)
        if found is None:
            self._problem(404, "there is no such page")
        else:
            self._reply(200, *found)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Carry out a call."""
        if not self._is_local():
            return
        length = self.headers.get("content-length", "")
        if not length.isascii() or not length.isdigit() or int(length) > _MOST_BYTES:
            self.close_connection = True
            self._problem(413, f"a call has a Content-Length of up to {_MOST_BYTES} bytes")
            return
        body = self.rfile.read(int(length))
        # A form of another site could send any other type without a question.
        if self.headers.get_content_type() != "application/json":
            self._problem(415, "send application/json")
            return
        try:
            answer = self.site.post(urlsplit(self.path).path, body)
        except (msgspec.DecodeError, UnicodeError, TypeError) as error:
            self._problem(422, str(error))
        except ApiError as error:
            self._problem(error.status, str(error))
        except (ClientError, TactfulError) as error:
            self._problem(502, str(error))
        else:
            if answer is None:
                self._problem(404, "there is no such call")
            else:
                self._reply(200, _TYPES["json"], msgspec.json.encode(answer))

    def log_message(self, format: str, *args: Any) -> None:
        """Log below what is shown."""
        LOG.debug(format, *args)

    def _is_local(self) -> bool:
        """Refuse names of other sites that lead here, and calls of their pages."""
        host = self.headers.get("host", "")
        origin = self.headers.get("origin", f"http://{host}")
        if is_this_machine(host.encode()) and origin == f"http://{host}":
            return True
        self.close_connection = True
        self._problem(421, "this shop answers pages of its own, on this machine")
        return False

    def _problem(self, status: int, detail: str) -> None:
        self._reply(status, _TYPES["json"], msgspec.json.encode({"detail": detail}))

    def _reply(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.send_header("cache-control", "no-cache")
        self.send_header("x-content-type-options", "nosniff")
        self.send_header("referrer-policy", "same-origin")
        allowed = f"default-src 'self'; connect-src 'self' {self.site.platform}"
        self.send_header("content-security-policy", f"{allowed}; frame-ancestors 'none'")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
