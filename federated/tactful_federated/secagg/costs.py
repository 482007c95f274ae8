"""Bytes and CPU of a secure sum, computed before a run from the messages and steps of the protocol.

Bytes follow from the layout in `messages`. CPU is a count of the expensive steps times the time of
each on one core of a server of 2020 (`python -m benchmarks.federated.run --only secure` measures
whole sums); a phone takes about twice as long. Training and transport are not included.
"""

from __future__ import annotations

from dataclasses import dataclass

from tactful_federated.secagg.messages import threshold_of

_SECONDS_VERIFY = 1.1e-4  # an Ed25519 signature
_SECONDS_AGREE = 5e-5  # X25519 and HKDF
_SECONDS_MASK = 3.5e-9  # a masked value: ChaCha20 and addition
_SECONDS_MULTIPLY = 1.5e-7  # in the field of the shares
_SECONDS_MEMBER = 4e-5  # decoding the messages of a member

_ADVERT = 279  # bytes of an encoded Advert, with a device number of 64 bits
_BOX = 93  # an encrypted pair of shares, with its number
_SHARE = 44  # an opened share, with its number
_AGREEMENT = 75  # a signature, with its number
_DEVICE = 9  # a device number
_SESSION = 160  # a Session with a short name of the run


@dataclass(frozen=True)
class SumCosts:
    """Costs of one secure sum.

    Attributes:
        device_sends: Bytes from each device.
        device_receives: Bytes to each device, with the weights.
        device_seconds: CPU of each device besides training.
        server_seconds: CPU of the server.
    """

    device_sends: int
    device_receives: int
    device_seconds: float
    server_seconds: float


def costs_of_sum(members: int, parameters: int, *, dropped: int = 0) -> SumCosts:
    """Return the costs of a sum.

    Args:
        members: Devices of the roster.
        parameters: Values of a vector, 4 bytes each.
        dropped: Members that fall silent after they dealt shares, whose masks the server removes.
    """
    others, vector = members - 1, 4 * parameters
    threshold, survivors = threshold_of(members), members - dropped
    sends = _ADVERT + others * _BOX + vector + 67 + members * _SHARE
    receives = (
        _SESSION
        + vector
        + members * (_ADVERT + _AGREEMENT + _DEVICE)  # roster, agreements and survivors
        + others * _BOX
    )
    # Two boxes and a mask for each other member; two secrets are shared by Horner's rule.
    device = (
        members * (3 * _SECONDS_VERIFY + _SECONDS_MEMBER)
        + others * (3 * _SECONDS_AGREE + parameters * _SECONDS_MASK)
        + 2 * members * threshold * _SECONDS_MULTIPLY
    )
    server = (
        members * (3 * _SECONDS_VERIFY + 4 * _SECONDS_AGREE + _SECONDS_MEMBER)
        + members * threshold * _SECONDS_MULTIPLY
        + members * others * 1e-6  # boxes are sorted by receiver, and shares by dealer
        + survivors * parameters * _SECONDS_MASK
        + dropped * survivors * (_SECONDS_AGREE + parameters * _SECONDS_MASK)
    )
    return SumCosts(sends, receives, device, server)
