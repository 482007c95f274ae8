"""Bytes and CPU of a secure sum, computed before a run from the messages and steps of the protocol.

Bytes follow from the layout in `messages`. CPU is a count of the expensive steps times the time of
each on one core of a server of 2020 (`python -m benchmarks.federated.run --only secure` measures
whole sums); a phone takes about twice as long. Training and transport are not included.
"""

from __future__ import annotations

from dataclasses import dataclass

from tactful_federated.core.graph import Graph
from tactful_federated.secagg.messages import threshold_of

_SECONDS_VERIFY = 1.1e-4  # an Ed25519 signature
_SECONDS_AGREE = 5e-5  # X25519 and HKDF
_SECONDS_MASK = 3.5e-9  # a masked value: ChaCha20 and addition
_SECONDS_MULTIPLY = 1.5e-7  # in the field of the shares
_SECONDS_INVERT = 2e-5  # in the same field
_SECONDS_LOOK_UP = 1e-7  # a neighbour in a set
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


def costs_of_sum(
    members: int, parameters: int, *, dropped: int = 0, graph: Graph | None = None
) -> SumCosts:
    """Return the costs of a sum.

    Args:
        members: Devices of the roster.
        parameters: Values of a vector, 4 bytes each.
        dropped: Members that fall silent after they dealt shares, whose masks the server removes.
        graph: Sparse graph; None is a complete one.
    """
    sparse = graph is not None and members > graph.neighbours + 1
    others = graph.neighbours if graph and sparse else members - 1
    threshold = graph.threshold if graph and sparse else threshold_of(members)
    signed = 2 if sparse else 1  # lists of devices that members sign: dealers, survivors
    vector, survivors = 4 * parameters, members - dropped
    sends = _ADVERT + others * _BOX + vector + signed * 67 + (others + 1) * _SHARE
    receives = (
        _SESSION
        + vector
        + members * (_ADVERT + signed * (_AGREEMENT + _DEVICE))  # roster, signatures and lists
        + others * _BOX
    )
    # Two boxes and a mask for each neighbour; two secrets are shared by Horner's rule.
    device = (
        members * ((2 + signed) * _SECONDS_VERIFY + _SECONDS_MEMBER)
        + others * (3 * _SECONDS_AGREE + parameters * _SECONDS_MASK)
        + 2 * (others + 1) * threshold * _SECONDS_MULTIPLY
        + (members * others * _SECONDS_LOOK_UP if sparse else 0.0)  # ring and survivors of each
    )
    # In a sparse graph the holders of each secret differ, and so do the weights of their shares.
    weights = threshold * (threshold * _SECONDS_MULTIPLY + _SECONDS_INVERT) if sparse else 0.0
    masks_left = dropped * min(survivors, others)
    server = (
        members * ((2 + signed) * _SECONDS_VERIFY + 4 * _SECONDS_AGREE + _SECONDS_MEMBER)
        + members * (threshold * _SECONDS_MULTIPLY + (weights if dropped else 0.0))
        + members * others * 1e-6  # boxes are sorted by receiver, and shares by dealer
        + survivors * parameters * _SECONDS_MASK
        + masks_left * (_SECONDS_AGREE + parameters * _SECONDS_MASK)
    )
    return SumCosts(sends, receives, device, server)
