"""The reading of documents as scripts."""

import pytest
from tests.documents.markdown_script import Step, absent_lines, steps, substituted

DOCUMENT = """# Title

<!-- run: tactful serve --dev -->

```sh
tactful items list
```

```text
shown only
```

1. In a list:

    ```sh
    echo indented
    ```

<!-- not run: needs a cluster
     with TLS -->
```python
connect()
```

```yaml
# features.yaml
- {name: a}
```

<!-- file: items.csv -->
```csv
item
```

<!-- adds to: features.yaml -->
```yaml
- {name: b}
```

<!-- a remark -->
<!-- printed -->
```text
2 items
```
"""


def test_blocks_become_steps_in_their_order() -> None:
    assert [(step.action, step.code, step.text) for step in steps(DOCUMENT)] == [
        ("sh", "tactful serve --dev\n", ""),
        ("sh", "tactful items list\n", ""),
        ("sh", "echo indented\n", ""),
        ("not run", "connect()\n", "needs a cluster with TLS"),
        ("file", "# features.yaml\n- {name: a}\n", "features.yaml"),
        ("file", "item\n", "items.csv"),
        ("adds to", "- {name: b}\n", "features.yaml"),
        ("printed", "2 items\n", ""),
    ]
    assert [step.line for step in steps(DOCUMENT)][:3] == [3, 5, 15]


@pytest.mark.parametrize(
    ("code", "run"),
    [
        ("curl localhost:8420/v1/items", "curl 127.0.0.1:81/v1/items"),
        ("curl https://shop.example/v1/events", "curl http://127.0.0.1:81/v1/events"),
        ("--kafka broker:9092", "--kafka here:92"),
        ("redis://localhost:6379/0#letters", "redis://here:63/0#letters"),
        ("mysql+pymysql://tactful:secret@db/shop", "mysql://here"),
        ("postgresql+psycopg://tactful:secret@db/shop", "postgresql://here"),
        ("valkey://cache:6379/0", "redis://here:63/0"),
        ("tactful backup /backups/2026", "tactful backup /tmp/x/backups/2026"),
        ("cat /usr/etc/tactful", "cat /usr/etc/tactful"),
        (
            "--topic tactful-log-16 --data tactful-data",
            "--topic tactful-log-16-n --data tactful-data",
        ),
    ],
)
def test_names_of_production_become_those_of_the_test(code: str, run: str) -> None:
    values = {
        "port": "81",
        "kafka": "here:92",
        "redis": "redis://here:63/0",
        "mysql": "mysql://here",
        "postgres": "postgresql://here",
        "folder": "/tmp/x",
        "name": "n",
    }
    assert substituted([Step("sh", code, 1)], values) == [Step("sh", run, 1)]


PRINTED = """3 accepted,   2 rejected
version 9 of 00ff00ff11
{"a":2,"b":[{"c":"d e"}]}
"""


@pytest.mark.parametrize(
    ("shown", "absent"),
    [
        ("2 accepted, 0 rejected", []),
        ("4 accepted, 1 rejected\nversion 12 of abcd01234", []),
        ("version 1 of deadbeef12\n4 accepted, 1 rejected", ["4 accepted, 1 rejected"]),
        ("4 accepted, 1 refused", ["4 accepted, 1 refused"]),
        ("version 1 … 123abcde", []),
        ('{"a": 1,\n "b": […]}', []),
    ],
)
def test_output_is_compared_without_its_numbers(shown: str, absent: list[str]) -> None:
    assert absent_lines(shown, PRINTED) == absent
