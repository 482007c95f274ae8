"""Whether what stood still did so because the broker broke a promise, or by a fault of ours.

The broker of the tests is not Kafka. Now and then it never ends the transaction of a producer that
was replaced, or never lets a group come to rest. Nothing goes on then, however right the processes
are that wait. Such a run says nothing about them, and is made again on another broker. That it was
the broker has to be shown: what a fault of ours may cause as well is never blamed on it, nor is an
event that is lost or a value that is wrong.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import TypeVar

from benchmarks.kills.topics import BrokerFault, end_transactions, hidden, take_names

_ENDING_S = 60.0
_JOINING_S = 120.0
_LOOK_S = 0.5
_RUNS = 3

Result = TypeVar("Result")


def find_fault(
    servers: str, topic: str, *, names: Collection[str] = (), group: str | None = None
) -> str | None:
    """What the broker does not do although Kafka does, after all of our processes have died.

    Who takes a transactional id ends what is open under it. With every id taken and nobody left who
    writes, no transaction is open: where the broker still hides records, it is its own doing. Were
    they hidden by a process that did not end its transaction, they show now.

    A group whose members are dead is given to who joins it, after the time that they had to answer.

    Args:
        servers: address of the broker.
        topic: that processes waited for.
        names: transactional ids of all who wrote there in transactions.
        group: that they were members of; None: of none.

    Returns:
        What it does not do, in words; None: no fault was found.
    """
    take_names(servers, names)
    until = time.monotonic() + _ENDING_S
    while kept := hidden(servers, topic):
        if time.monotonic() > until:
            return f"partitions {kept} of {topic!r} stay hidden though nobody has a transaction"
        end_transactions(servers, topic, kept)
        time.sleep(_LOOK_S)
    if group is not None and not _gives_partitions(servers, topic, group):
        return f"group {group!r} gives its only member nothing"
    return None


def on_sound_broker(
    brokers: Callable[[], AbstractContextManager[str]], run: Callable[[str, int], Result]
) -> Result:
    """Make a run, and make it again on another broker where the broker was at fault.

    Args:
        brokers: starts a broker that nobody has used; its address.
        run: with the address, and how often it was made before.

    Raises:
        BrokerFault: if three brokers in a row were at fault.
    """
    faults: list[str] = []
    for attempt in range(_RUNS):
        with brokers() as servers:
            try:
                return run(servers, attempt)
            except BrokerFault as fault:
                faults.append(str(fault))
                warnings.warn(f"a fault of the broker: {fault}", stacklevel=2)
    raise BrokerFault(f"{_RUNS} brokers in a row are at fault: {'; '.join(faults)}")


def _gives_partitions(servers: str, topic: str, group: str) -> bool:
    """Whether a group gives partitions to its only member."""
    from confluent_kafka import Consumer

    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": group,
            "partition.assignment.strategy": "cooperative-sticky",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([topic])
    until = time.monotonic() + _JOINING_S
    while not consumer.assignment() and time.monotonic() < until:
        consumer.poll(_LOOK_S)
    given = bool(consumer.assignment())
    consumer.close()
    return given
