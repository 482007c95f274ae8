from pathlib import Path
from typing import Any

README = Path(__file__).parents[2] / "bandits" / "README.md"


def test_the_example_runs_and_finds_what_was_put_in() -> None:
    code = README.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(compile(code, str(README), "exec"), names)
    assert 0 < names["low"] < 0.06 < names["high"]
    assert not names["balance"].mismatch
