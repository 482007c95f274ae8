import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful_streaming.contract.key_partition import partition_of

kafka = pytest.importorskip("confluent_kafka")


@given(st.text(max_size=40), st.integers(1, 1000))
def test_it_is_that_of_the_kafka_client(key: str, partitions: int) -> None:
    assert partition_of(key, partitions) == kafka.murmur2(key.encode(), partitions)
