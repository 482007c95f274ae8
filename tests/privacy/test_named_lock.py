"""The named lock against a server that answers as MySQL does."""

from typing import Any, Self

import pytest

from tactful_privacy.named_lock import hold_named_lock


class Server:
    """Answers `GET_LOCK` with one number; records the statements."""

    def __init__(self, answer: int | None) -> None:
        self.statements: list[str] = []
        self._answer = answer

    def connect(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.statements.append("closed")

    def scalar(self, statement: Any, values: dict[str, Any]) -> Any:
        self.statements.append(str(statement).split("(")[0])
        return "digest" if "SHA1" in str(statement) else self._answer

    def execute(self, statement: Any, values: dict[str, Any]) -> None:
        assert values == {"lock": "digest"}
        self.statements.append(str(statement).split("(")[0])


def test_a_lock_is_held_and_released() -> None:
    server: Any = Server(1)
    with pytest.raises(KeyError), hold_named_lock(server, "ledger", timeout_s=3):
        raise KeyError
    assert server.statements[1:] == ["SELECT GET_LOCK", "SELECT RELEASE_LOCK", "closed"]


@pytest.mark.parametrize("answer", [0, None])
def test_a_lock_that_others_hold_is_refused(answer: int | None) -> None:
    server: Any = Server(answer)
    with (
        pytest.raises(TimeoutError, match="'ledger' of the database for 3 s"),
        hold_named_lock(server, "ledger", timeout_s=3),
    ):
        pytest.fail("the lock is not held")
    assert server.statements[1:] == ["SELECT GET_LOCK", "closed"]
