"""The named lock, with the answers of a MySQL server."""

from unittest.mock import MagicMock

import pytest

from tactful_privacy.named_lock import hold_named_lock


@pytest.mark.parametrize("answer", [1, 0, None])
def test_a_lock_is_held_and_released_or_refused(answer: int | None) -> None:
    engine = MagicMock()
    connection = engine.connect.return_value.__enter__.return_value
    connection.scalar.side_effect = ["digest", answer]
    refused = pytest.raises(TimeoutError, match="'ledger' of the database for 3 s")
    ends = pytest.raises(KeyError) if answer == 1 else refused
    with ends, hold_named_lock(engine, "ledger", timeout_s=3):
        assert answer == 1 and not connection.execute.called
        raise KeyError
    assert connection.scalar.call_args.args[1] == {"lock": "digest", "seconds": 3}
    assert connection.execute.call_count == (answer == 1)
