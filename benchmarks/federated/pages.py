"""Devices in web pages: a round of eight headless pages, and inference beside onnxruntime-web."""

from __future__ import annotations

import functools
import gzip
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.browser import Page, browser, tabs
from benchmarks.figures import Figure
from tactful_federated.core.plan import Wishes
from tactful_federated.model.onnx import to_onnx
from tactful_federated.model.sample_data import SAMPLE_CATALOGUE, sample_history
from tactful_federated.model.vectors import parameter_count
from tactful_federated.secagg.collectors import SecureCollector
from tactful_federated.secagg.messages import encode, enrol_page
from tactful_federated.serving.rounds import authority_key, initial_weights, invite
from tactful_federated.transport.page_server import PageApp, round_routes, serving_pages
from tactful_federated.transport.pages import PageTransport

ROUND = [("browser_round_s", "s")]
RUNTIME = [
    ("page_inference_ms", "ms"),
    ("page_inference_ort_web_ms", "ms"),
    ("page_module_kb", "kB"),
    ("page_runtime_ort_web_kb", "kB"),
]

_ROOT = Path(__file__).resolve().parents[2]
_PAGES, _VISITS = 8, 60
_CATEGORIES = [*SAMPLE_CATALOGUE, *(f"category {number}" for number in range(85))]
_ORT = "onnxruntime-web@1.22.0"
_ORT_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_TOKENS = 100
_WAIT_S = 120.0
_HALF_HOUR_MS = 31 * 60_000

# Eight pages of one origin: each has a database of its own, so it is a device of its own.
_JOIN = """
const given = %s;
const { PageDevice, watchPage } = await import("/device.js");
const real = Date.now.bind(Date);
let shift = 0;
Date.now = () => real() + shift;
window.device = new PageDevice({
  ...given.options,
  surroundings: { ...watchPage(), quiet: () => true, charging: async () => true },
  onError: (error) => console.error(error.message),
  enrol: (key) => new Promise((resolve) => { window.key = [...key]; window.enrolled = resolve; }),
});
await device.setConsent(true);
for (const [at, visit] of given.visits.entries()) {
  shift = (at - given.visits.length) * %d;
  for (const category of visit) await device.record(category);
}
shift = 0;
device.start();
"""

_TIME = """
const { tokens, graph, flat, vocabulary, width, times } = %s;
const { Model } = await import("/device-core.js");
const ort = await import("/ort/ort.wasm.min.mjs");
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = "/ort/";
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const model = new Model(vocabulary, width, width);
const weights = new Float32Array(bytes(flat).buffer);
const session = await ort.InferenceSession.create(bytes(graph));
const wide = BigInt64Array.from(tokens, BigInt);
const input = { tokens: new ort.Tensor("int64", wide, [1, tokens.length]) };
const ours = () => model.predict(weights, tokens);
const theirs = async () => (await session.run(input)).likely.data;
const expected = await theirs();
const apart = Math.max(...ours().map((value, at) => Math.abs(value - expected[at])));
const time = async (call) => {
  const begun = performance.now();
  for (let i = 0; i < 20; i++) await call();
  return (performance.now() - begun) / 20;
};
const found = { apart, ours: [], theirs: [] };
for (let i = 0; i < times; i++) {
  found.ours.push(await time(ours));
  found.theirs.push(await time(theirs));
}
return found;
"""


def round_time(quick: bool) -> list[Figure]:
    """Time secret sums of eight pages of one browser, from the question to the sum."""
    rounds = 3 if quick else 11
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        origin = stack.enter_context(_serving(_bundle(folder / "web")))
        wishes = Wishes(
            epsilon=8.0,
            delta=1e-3,
            population=_PAGES,
            rounds=100,
            report_goal=_PAGES,
            over_selection=1.0,
            minimum_reports=3,
            availability=1.0,
            most_bands=1,
        )
        invited = invite(folder / "run", wishes, _CATEGORIES, run="bench", tier="secret")
        transport = PageTransport(invited.enrolled_by, timeout=60.0)
        app = PageApp(round_routes(transport), [origin])
        _, port = stack.enter_context(serving_pages(app, 0)).split(":")
        document = msgspec.json.encode(invited).decode()
        opened = stack.enter_context(tabs(_chromium(), folder / "profile", _PAGES))
        numbers = []
        for at, page in enumerate(opened):
            page.open(origin)
            visits = [list(visit) for visit in sample_history(at, baskets=_VISITS)]
            # A browser opens six connections to a host, and each page holds one.
            own = {"url": f"http://p{at}.localhost:{port}", "database": f"device-{at}"}
            given = {"options": {"invitation": document, **own}, "visits": visits}
            page.run(_JOIN % (json.dumps(given), _HALF_HOUR_MS))
            numbers.append(_enrol(page, folder / "run"))
        end = time.monotonic() + _WAIT_S
        while len(transport.ids()) < _PAGES:
            if time.monotonic() > end:
                raise TimeoutError(f"{len(transport.ids())} of {_PAGES} pages poll")
            time.sleep(0.05)
        weights = initial_weights(invited.vocabulary)
        collector = SecureCollector(transport, invited.enrolled_by, run=invited.run, terms=invited)
        spent = []
        for number in range(1, rounds + 1):
            begun = time.perf_counter()
            found = collector.collect(sorted(numbers), weights, invited.plan, number)
            spent.append(time.perf_counter() - begun)
            if found.reports != _PAGES:
                raise RuntimeError(f"{found.reports} of {_PAGES} pages reported")
    note = (
        f"{_PAGES} tabs, {weights.size:,} parameters, an epoch over {_VISITS} visits, secret sum,"
        " without TLS"
    )
    low, middle, high = min(spent), float(np.median(spent)), max(spent)
    return [Figure("browser_round_s", middle, "s", low, high, len(spent), note)]


def runtime(quick: bool) -> list[Figure]:
    """Compare time and size of our inference with onnxruntime-web in the same page."""
    vocabulary, width = len(_CATEGORIES) + 3, 32
    random = np.random.default_rng(1)
    size = parameter_count(vocabulary, width, width)
    weights = random.normal(0, 0.1, size).astype(np.float32)
    given = {
        "tokens": random.integers(3, vocabulary, _TOKENS).tolist(),
        "graph": msgspec.to_builtins(to_onnx(weights, vocabulary)),
        "flat": msgspec.to_builtins(weights.astype("<f4").tobytes()),
        "vocabulary": vocabulary,
        "width": width,
        "times": 3 if quick else 15,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = _bundle(folder / "web")
        shutil.copytree(_onnxruntime(folder / "ort"), bundle / "ort")
        with _serving(bundle) as origin, browser(_chromium(), folder / "profile") as page:
            page.open(origin)
            found = page.run(_TIME % json.dumps(given))
        own = [bundle / "device.js"]
        sizes = [_zipped(own), _zipped([bundle / "ort" / file for file in _ORT_FILES])]
    if found["apart"] > 1e-5:
        raise RuntimeError(f"the probabilities of the two differ by {found['apart']:.2g}")
    note = f"{_TOKENS} tokens, {size:,} parameters, one thread, headless Chromium"
    times = [
        Figure(name, float(np.median(ms)), "ms", min(ms), max(ms), len(ms), about)
        for name, ms, about in [
            ("page_inference_ms", found["ours"], note),
            ("page_inference_ort_web_ms", found["theirs"], f"{_ORT}, WASM with SIMD, {note}"),
        ]
    ]
    return [
        *times,
        Figure("page_module_kb", sizes[0], "kB", note="device.js with gzip: training included"),
        Figure("page_runtime_ort_web_kb", sizes[1], "kB", note=f"{_ORT} with gzip: inference only"),
    ]


def _bundle(folder: Path) -> Path:
    """Build the browser client into a folder."""
    command = [str(_ROOT / "scripts" / "web"), "build", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


def _onnxruntime(folder: Path) -> Path:
    """Install the runtime from npm; return the folder of its files."""
    folder.mkdir()
    (folder / "package.json").write_text("{}", "utf-8")
    command = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", _ORT]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder / "node_modules" / "onnxruntime-web" / "dist"


def _chromium() -> str:
    chromium = os.environ.get("TACTFUL_TEST_CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        raise FileNotFoundError("no Chromium here: set TACTFUL_TEST_CHROMIUM")
    return chromium


def _enrol(page: Page, directory: Path) -> int:
    page.wait_for("!!window.enrolled")
    enrolment = enrol_page(authority_key(directory), bytes(page.evaluate("window.key")))
    page.run(f"enrolled(Uint8Array.from({list(encode(enrolment))}))")
    return enrolment.device


def _zipped(files: list[Path]) -> float:
    return sum(len(gzip.compress(file.read_bytes(), 9)) for file in files) / 1000


@contextmanager
def _serving(folder: Path) -> Iterator[str]:
    """Serve a folder on loopback; yield the origin."""
    (folder / "index.html").write_text("<!doctype html><title>page</title>", "utf-8")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
