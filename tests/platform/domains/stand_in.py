"""Stand-in for `openmined-psi` with the same interface, which compares in the clear."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import pytest

NAME = "private_set_intersection"


@dataclass
class Message:
    """A message of the stand-in: a list of texts."""

    encrypted_elements: list[str] = field(default_factory=list)

    def SerializeToString(self) -> bytes:
        return msgspec.json.encode(self.encrypted_elements)

    def ParseFromString(self, content: bytes) -> None:
        self.encrypted_elements = msgspec.json.decode(content, type=list[str])


class StandIn:
    """Client and server of the stand-in."""

    def CreateRequest(self, items: list[str]) -> Message:
        return Message(items)

    def CreateSetupMessage(
        self, rate: float, count: int, items: list[str], structure: str
    ) -> Message:
        assert structure == "raw"
        return Message(items)

    def ProcessRequest(self, request: Message) -> Message:
        return request

    def GetIntersection(self, setup: Message, response: Message) -> list[int]:
        known = {*setup.encrypted_elements}
        return [n for n, it in enumerate(response.encrypted_elements) if it in known]


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let imports of the library find the stand-in."""
    package, module = ModuleType(NAME), ModuleType(f"{NAME}.python")
    made: Any = module
    made.client = SimpleNamespace(CreateFromKey=lambda key, reveal: StandIn())
    made.server = SimpleNamespace(CreateWithNewKey=lambda reveal: StandIn())
    made.DataStructure = SimpleNamespace(RAW="raw")
    made.Request = made.Response = made.ServerSetup = Message
    whole: Any = package
    whole.python = module
    monkeypatch.setitem(sys.modules, NAME, package)
    monkeypatch.setitem(sys.modules, f"{NAME}.python", module)
