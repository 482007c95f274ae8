"""Secure sum over a sparse graph: six questions, and work in proportion to the neighbours.

Members of a complete graph learn from the boxes who dealt shares. In a sparse graph a server could
hide dealers from one member, which would then mask with few others. So all members sign the list of
dealers first, and a vector leaves a device only if more than two thirds of the roster signed the
same list. Two such lists cannot exist if fewer than a third collude with the server.
"""

from __future__ import annotations

from typing import ClassVar

from tactful_federated.errors import SecureSumError
from tactful_federated.model.vectors import IntegerVector
from tactful_federated.secagg import messages
from tactful_federated.secagg.client import SecureSumDevice


class SparseSumDevice(SecureSumDevice):
    """One device in one session over a sparse graph.

    Guarantee: that of `SecureSumDevice`, up to a probability of 2^-40 (`core.graph`), if the server
    and at most the planned share of the members deviate.
    """

    STEPS: ClassVar[tuple[str, ...]] = ("advertise", "share", "settle", "mask", "confirm", "open")

    def settle(self, dealers: bytes) -> bytes:
        """Return the third answer: the signature over the dealers of shares.

        Raises:
            SecureSumError: The dealers are too few, not members, or lack this device.
        """
        with self._step("settle"):
            listed = messages.decode(dealers, messages.Survivors).devices
            self._dealers = frozenset(listed)
            if len(listed) != len(self._dealers) or not self._dealers <= set(self._members):
                raise SecureSumError("the dealers of shares are not distinct members")
            if self._me not in self._dealers:
                raise SecureSumError("this device dealt shares and is not among the dealers")
            self._check_size(len(self._dealers), "dealers of shares")
            signature = self._identity.sign(messages.dealers_text(self._context, self._dealers))
            return messages.encode(messages.Agreement(signature))

    def mask(self, boxes: bytes, vector: IntegerVector) -> bytes:
        """Return the fourth answer: the vector plus its own mask and those with neighbours.

        Raises:
            SecureSumError: Too few members signed the dealers, or shares are from others.
        """
        with self._step("mask"):
            dealt = messages.decode(boxes, messages.Dealt)
            self._check_vector(vector)
            text = messages.dealers_text(self._context, self._dealers)
            self._check_signed(dealt.signatures, self._dealers, text, "dealers")
            neighbours = [n for n in self._ring.others(self._me) if n in self._dealers]
            if not set(dealt.sealed) <= set(neighbours):
                raise SecureSumError("shares are from a device that is no neighbour")
            self._keep_shares(dealt.sealed)
            return self._masked(vector, neighbours)
