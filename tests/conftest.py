"""Fixtures for all tests: running services and the shared data sets."""

import functools
import gc
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis.errors import HypothesisException
from hypothesis.strategies import DataObject
from numpy.typing import NDArray

from tactful_privacy.mechanisms._table import Entropy, Table

ROOT = Path(__file__).resolve().parents[1]

# Machine code is compiled once for all tests and the processes that they start.
os.environ.setdefault("NUMBA_CACHE_DIR", str(ROOT / ".pytest_cache" / "numba"))
# Counters of private runs, which are outside the directories of the runs.
os.environ["XDG_STATE_HOME"] = str(ROOT / ".pytest_cache" / "state")

# Most tests wait for the disk longer than they compute, as a server makes its files durable when it
# starts: some ten waits of tens of milliseconds. Files of tests outlive no crash of the machine, so
# they are in memory where there is enough. Those of a test that passed are deleted at its end.
_MEMORY = Path("/dev/shm")


def _use_memory() -> None:
    """Make temporary files in memory, unless the environment names a place for them."""
    if "TMPDIR" in os.environ or not os.access(_MEMORY, os.W_OK):
        return
    about = os.statvfs(_MEMORY)
    if about.f_bavail * about.f_frsize > 6 * 2**30 and not about.f_flag & os.ST_NOEXEC:
        os.environ["TMPDIR"] = str(_MEMORY)  # for the processes that tests start, too
        tempfile.tempdir = None


_use_memory()

# No test asserts on time, Hypothesis's neither. Every run has the same examples, but for one of
# `scripts/test --random`, which names its seed here.
_SEED = os.environ.get("TACTFUL_TEST_SEED")
settings.register_profile(
    "tests",
    deadline=None,
    derandomize=_SEED is None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tests")

# Share of its examples that a test of Hypothesis tries, see scripts/test.
_EXAMPLES = float(os.environ.get("TACTFUL_TEST_EXAMPLES", "1"))
_FEWEST = 3
_RANDOM_S = 60  # seconds after which a random run begins no further test
_TEST_S = 4  # seconds after which its tests try no further example, unless one has failed

# A dashboard's page under test replaces the main module, which processes that tests start import;
# its thread may do so when its own test has ended.
_MAIN = sys.modules["__main__"]

# Collecting imports hundreds of modules and keeps what they make: a million objects, which each
# full collection of garbage would look through again. There is none until the tests begin, see
# `pytest_collection_finish`.
gc.disable()

_started = time.monotonic()
_test_started = _started

# The name of this process among those that pytest-xdist runs the tests in; None in one alone.
_PROCESS = os.environ.get("PYTEST_XDIST_WORKER")

# What `scripts/test` exports for each service it could start.
_SERVICES = {
    "redis": "TACTFUL_TEST_REDIS",
    "valkey": "TACTFUL_TEST_VALKEY",
    "mysql": "TACTFUL_TEST_MYSQL",
    "postgres": "TACTFUL_TEST_POSTGRES",
    "kafka": "TACTFUL_TEST_KAFKA",
    "apache": "TACTFUL_TEST_KAFKA",
    "flink": "TACTFUL_TEST_FLINK",
    "chromium": "TACTFUL_TEST_CHROMIUM",
    "web": "TACTFUL_TEST_WEB",
    "clients": "TACTFUL_TEST_CLIENTS",
    "nginx": "TACTFUL_TEST_NGINX",
    "prometheus": "TACTFUL_TEST_PROMETHEUS",
    "espeak": "TACTFUL_TEST_ESPEAK",
}

_NO_SERVICE = re.compile(rf"no ({'|'.join(_SERVICES)}) here: scripts/test starts it")

# Apache Kafka cannot be installed from a package registry: without it CI passes.
_OPTIONAL = frozenset({"apache"})


def _service(name: str) -> str:
    """Return the address of a service; without it skip the test, or fail it in CI."""
    variable = _SERVICES.get(name)
    if variable is None:
        pytest.fail(f"unknown service {name!r}: one of {', '.join(sorted(_SERVICES))}")
    value = _apache() if name == "apache" else os.environ.get(variable)
    if value is None:
        _missing(name)
    return value


def _apache() -> str | None:
    """Return the address of the named Apache Kafka, else the program to start one, else None."""
    from benchmarks.apache_kafka import find_program, named_servers

    program = find_program()
    return named_servers() or (None if program is None else str(program))


def _missing(name: str) -> NoReturn:
    reason = f"no {name} here: scripts/test starts it and sets {_SERVICES[name]}"
    if os.environ.get("CI") == "true" and name not in _OPTIONAL:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line which services were missing, and for how many tests."""
    counts = Counter(
        match[1]
        for outcome in ("skipped", "failed", "error")
        for report in terminalreporter.stats.get(outcome, ())
        if (match := _NO_SERVICE.search(str(report.longrepr)))
    )
    if counts:
        names = ", ".join(f"{name} ({counts[name]} tests)" for name in sorted(counts))
        terminalreporter.write_line(f"services missing: {names}; see CONTRIBUTING.md", red=True)


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder of trained models that the processes of this run share."""
    if _PROCESS is None:
        folder = tempfile.TemporaryDirectory(prefix="tactful-trained-")
        os.environ["TACTFUL_TEST_TRAINED"] = folder.name
        config.add_cleanup(folder.cleanup)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Change how many examples tests of Hypothesis try; shuffle and limit those of a random run."""
    if _SEED is not None:
        random.Random(int(_SEED)).shuffle(items)
    for test in {getattr(item, "obj", None) for item in items}:
        function: Any = getattr(test, "__func__", test)
        if not hasattr(function, "hypothesis"):
            continue
        if _SEED is not None:
            function.hypothesis.inner_test = _limited(function.hypothesis.inner_test)
        # Hypothesis has no public way to change the settings of a test after it was decorated.
        own = function._hypothesis_internal_use_settings
        most = max(round(own.max_examples * _EXAMPLES), min(own.max_examples, _FEWEST))
        function._hypothesis_internal_use_settings = settings(own, max_examples=most)


def pytest_collection_finish() -> None:
    """Exclude what the collection of tests left from every later collection of garbage."""
    gc.freeze()
    gc.enable()


def _limited(test: Callable[..., None]) -> Callable[..., None]:
    """Wrap the body of a test: when its time is over, further examples pass untried.

    A test that draws from `data` or from a generator of random numbers is not limited, since an
    example that is tried again has to draw the same.
    """
    failed = False

    @functools.wraps(test)
    def limited(*arguments: Any, **named: Any) -> None:
        nonlocal failed
        values = (*arguments, *named.values())
        draws = any(isinstance(value, DataObject | random.Random) for value in values)
        if time.monotonic() > _test_started + _TEST_S and not (failed or draws):
            return
        try:
            test(*arguments, **named)
        except HypothesisException:  # an example that does not suit
            raise
        except Exception:
            failed = True  # it is tried again to make it smaller
            raise

    return limited


def pytest_runtest_setup(item: pytest.Item) -> None:
    global _test_started
    _test_started = time.monotonic()
    sys.modules["__main__"] = _MAIN
    if _SEED is not None and time.monotonic() - _started > _RANDOM_S:
        pytest.skip(f"the {_RANDOM_S} s of a random run are over")
    for marker in item.iter_markers("service"):
        for name in marker.args:
            _service(name)


@pytest.fixture(scope="session")
def redis_url() -> str:
    """URL of a Redis that tests may fill: each uses keys of its own."""
    return _service("redis")


@pytest.fixture(scope="session")
def valkey_url() -> str:
    """URL of a Valkey that tests may fill: each uses keys of its own."""
    return _service("valkey")


@pytest.fixture(scope="session")
def mysql_url() -> str:
    """SQLAlchemy URL of a MariaDB or MySQL database: a test drops the tables it makes.

    The tables have the names of the product, so each process of the tests has its own database.
    """
    url = _service("mysql")
    if _PROCESS is None:
        return url
    place = sa.make_url(url)
    engine = sa.create_engine(place)
    own = place.set(database=f"{place.database}_{_PROCESS}")
    statement = f"CREATE DATABASE IF NOT EXISTS {own.database} CHARACTER SET utf8mb4"
    with engine.begin() as connection:
        connection.execute(sa.text(statement))
    engine.dispose()
    return own.render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def postgres_url() -> str:
    """SQLAlchemy URL of a PostgreSQL database; likewise."""
    url = _service("postgres")
    if _PROCESS is None:
        return url
    place = sa.make_url(url)
    engine = sa.create_engine(place, isolation_level="AUTOCOMMIT")
    own = place.set(database=f"{place.database}_{_PROCESS}")
    present = "SELECT 1 FROM pg_database WHERE datname = :name"
    with engine.connect() as connection:
        if connection.scalar(sa.text(present), {"name": own.database}) is None:
            connection.execute(sa.text(f"CREATE DATABASE {own.database}"))
    engine.dispose()
    return own.render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Any]:
    """A server of S3 that tests share: each uses a place of its own, see `S3Server`."""
    from tests.streaming.s3_server import running_server

    with running_server() as server:
        yield server


@pytest.fixture(scope="module")
def kafka_servers() -> Iterator[str]:
    """Address of a broker that speaks Kafka's protocol: each test uses topics of its own.

    Each module has a broker of its own, unless the environment names one: what a test leaves behind
    in it, such as a transaction that it never ends, reaches no other module.
    """
    with _fresh_broker() as servers:
        yield servers


@pytest.fixture(scope="session")
def kafka_brokers() -> Callable[[], AbstractContextManager[str]]:
    """Starts a broker that nobody has used, for as long as the context lasts; its address.

    Where the environment names a broker it is that one.
    """
    return _fresh_broker


@contextmanager
def _fresh_broker() -> Iterator[str]:
    named = _service("kafka")
    if "TACTFUL_TEST_BROKER" not in os.environ:
        yield named
        return
    from tests.streaming.brokers import running_broker

    with running_broker() as broker:
        yield broker.servers


@pytest.fixture(scope="session")
def apache_cluster(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., AbstractContextManager[Any]]:
    """Starts Apache Kafka for as long as the context lasts: a :class:`Cluster`.

    For tests that kill a broker or need settings of their own, which are marked slow: each broker
    takes 4 s and 400 MB. Arguments are those of a cluster behind the folder.
    """

    @contextmanager
    def running(brokers: int = 1, *options: str) -> Iterator[Any]:
        from benchmarks.apache_kafka import Cluster, find_program

        if find_program() is None:
            _missing("apache")
        cluster = Cluster(tmp_path_factory.mktemp("kafka") / "cluster", brokers, *options)
        try:
            yield cluster
        finally:
            cluster.kill()

    return running


@pytest.fixture(scope="session")
def apache_servers(
    apache_cluster: Callable[..., AbstractContextManager[Any]],
) -> Iterator[str]:
    """Address of an Apache Kafka that tests share: each uses topics and groups of its own."""
    from benchmarks.apache_kafka import named_servers

    if named := named_servers():
        yield named
        return
    with apache_cluster() as cluster:
        yield cluster.servers


@pytest.fixture(scope="session")
def _apache_and_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    from benchmarks.apache_kafka import find_program
    from tests.streaming.brokers import apache_behind_proxy

    if find_program() is None:
        _missing("apache")
    with apache_behind_proxy(tmp_path_factory.mktemp("proxied") / "cluster") as pair:
        yield pair


@pytest.fixture
def broker_and_proxy(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any]]:
    """A broker that the test may kill, behind a proxy that it may cut.

    One of its own in memory; with the parameter "apache", an Apache Kafka that such tests share,
    which keeps its topics.
    """
    from tests.streaming.brokers import broker_behind_proxy

    if getattr(request, "param", "memory") == "memory":
        with broker_behind_proxy() as pair:
            yield pair
        return
    broker, proxy = request.getfixturevalue("_apache_and_proxy")
    yield broker, proxy
    broker.start()
    proxy.answers_after = 0.0
    proxy.cut()
    proxy.restore()


@pytest.fixture(scope="session")
def seeded_noise() -> Callable[[int], AbstractContextManager[None]]:
    """Takes a seed; as long as the context lasts, noise is drawn from that, not from the system.

    For what lets nobody choose where its noise comes from, such as a command.
    """
    return _seeded_noise


@contextmanager
def _seeded_noise(seed: int) -> Iterator[None]:
    seeded, draw = np.random.default_rng(seed).bytes, Table.sample

    def sample(self: Table, n: int, entropy: Entropy) -> NDArray[np.int64]:
        return draw(self, n, seeded if entropy is os.urandom else entropy)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Table, "sample", sample)
        yield


@pytest.fixture(scope="session")
def flink_home() -> Path:
    """The folder whose ``lib/`` holds Flink's jars."""
    return Path(_service("flink"))


@pytest.fixture(scope="session")
def espeak_path() -> str:
    """The espeak-ng executable, which speaks phrases."""
    return _service("espeak")


@pytest.fixture(scope="session")
def chromium_path() -> Path:
    """The headless-capable Chromium executable."""
    return Path(_service("chromium"))


@pytest.fixture(scope="session")
def web_client() -> Path:
    """The folder with the browser client, bundled: ``tactful.js`` and ``tactful.global.js``."""
    return Path(_service("web"))


@pytest.fixture(scope="session")
def stock_clients() -> Path:
    """The folder with the clients of other programs for Node, installed, and ``send.mjs``."""
    return Path(_service("clients"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the data sets too large for the repository (the one that holds ``data/``)."""
    folder = Path(os.environ.get("TACTFUL_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no data sets in {folder}: set TACTFUL_SHARED to the folder that holds data/")
    return folder
