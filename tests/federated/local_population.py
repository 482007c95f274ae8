"""Devices of this process as a `Population`, to compare other populations with."""

import logging
from collections.abc import Mapping, Sequence

from tactful_federated.device.trainer import Device
from tactful_federated.errors import FederatedError
from tactful_federated.model.scores import Scores
from tactful_federated.model.vectors import Updates, Vector

_log = logging.getLogger(__name__)


class LocalPopulation:
    """`Population` of devices in this process, called one after the other."""

    def __init__(self, devices: Mapping[int, Device]) -> None:
        self._devices = devices

    def ids(self) -> Sequence[int]:
        return list(self._devices)

    def train(self, ids: Sequence[int], weights: Vector, round_number: int) -> Updates:
        """Yield updates of the devices; those that fail are left out."""
        for number in ids:
            try:
                yield number, self._devices[number].train(weights, round_number)
            except FederatedError as failure:
                _log.warning("a device failed in round %d: %s", round_number, failure)

    def evaluate(self, ids: Sequence[int], weights: Vector, round_number: int) -> Scores:
        return {number: self._devices[number].evaluate(weights) for number in ids}
