"""Server side of a secure sum over a sparse graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tactful_federated.errors import SecureSumError
from tactful_federated.secagg import messages
from tactful_federated.secagg.secret_sharing import SHARE_BYTES, Opening, open_secret
from tactful_federated.secagg.server import Payloads, SecureSumServer


class SparseSumServer(SecureSumServer):
    """Server side of a session over a sparse graph; call the methods of `STEPS` in order.

    Wrong shares are corrected, and nobody is named as a liar.
    """

    STEPS: ClassVar[tuple[str, ...]] = (
        *("list_members", "deliver", "settle", "collect", "gather", "unmask"),
    )

    def deliver(self, answers: Payloads) -> dict[int, bytes]:
        """Read encrypted shares; return the list of dealers, for each dealer."""
        self._read_boxes(answers)
        return dict.fromkeys(
            self._sealed, messages.encode(messages.Survivors(sorted(self._sealed)))
        )

    def settle(self, answers: Payloads) -> dict[int, bytes]:
        """Read signatures over the dealers; return them with the boxes of neighbours."""
        text = messages.dealers_text(self._context, self._sealed)
        signatures = self._read_agreements(answers, self._sealed, text, "agreed on the dealers")
        return {
            receiver: messages.encode(messages.Dealt(signatures, self._boxes_for(receiver)))
            for receiver in signatures
        }

    def _open(self, opened: Mapping[int, messages.Opened], dropped: set[int]) -> Opening:
        """Reconstruct the seeds of survivors and the mask keys of others."""
        opening = Opening()
        for dealer in (*self._survivors, *sorted(dropped)):
            held = {}
            for place, holder in enumerate(self._ring.circles[dealer], 1):
                if holder in opened:
                    sent = opened[holder]
                    shares = sent.mask_keys if dealer in dropped else sent.seeds
                    if len(share := shares.get(dealer, b"")) == SHARE_BYTES:
                        held[place] = share
            if len(held) < self._ring.shares:
                raise SecureSumError(
                    f"there are {len(held)} shares of a secret, and {self._ring.shares} are needed"
                )

            def is_right(secret: bytes, dealer: int = dealer) -> bool:
                return self._is_right(dealer, secret, is_key=dealer in dropped)

            secret, _ = open_secret(held, self._ring.shares, is_right)
            if secret is None:
                raise SecureSumError(
                    f"shares of device {dealer} do not match the commitment of its device"
                )
            opening.secrets[dealer] = secret
        return opening
