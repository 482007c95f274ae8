// Flags of a page: payload, signature, updates, storage, consent and exposures.
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { emptyStorage, FakeServer, FakeVisitor, until } from "./fake_server.mjs";
import { Flags } from "./flags.js";

const DAY_MS = 86_400_000;
const on = { cart: { defaultValue: true } };
const price = (weights) => ({
  price: {
    defaultValue: 1,
    rules: [
      { key: "price", variations: [1, 2], meta: [{ key: "old" }, { key: "new" }], weights, hashVersion: 2 },
    ],
  },
});

let server, storage, pages, errors;

beforeEach(async () => {
  storage = emptyStorage();
  server = await new FakeServer().start();
  server.publish({ ...on, ...price([0, 1]) });
  [pages, errors] = [[], []];
});

afterEach(async () => {
  for (const page of pages) page.close();
  await server.stop();
});

/** Open a page that hears of errors, asks rarely, and does not wait at random. */
function open(options = {}) {
  const onError = ({ code }) => errors.push(code);
  const flags = new Flags({ url: server.url, key: "b", pollMs: DAY_MS, spreadMs: 0, onError, ...options });
  pages.push(flags);
  return flags;
}

test("values come from one signed payload, which is not sent twice", async () => {
  const flags = open();
  assert.equal(flags.isOn("cart"), false);
  await flags.ready();
  assert.equal(flags.isOn("cart"), true);
  assert.equal(flags.version, 1);
  assert.equal(await flags.refresh(), undefined);
  const [first, second] = server.requests.filter(({ path }) => path === "/v1/flags/payload");
  assert.equal(first.headers.authorization, "Bearer b");
  assert.equal(first.headers["if-none-match"], undefined);
  assert.ok(second.headers["if-none-match"]);
  assert.equal(server.count("/v1/flags/signing-key"), 1);
});

test("a value of another type, and an unknown flag, give the page's value", async () => {
  const flags = open();
  await flags.ready();
  assert.equal(flags.value("cart", false), true);
  assert.equal(flags.value("cart", "no"), "no");
  assert.deepEqual(flags.value("none", [1]), [1]);
  assert.equal(flags.explain("none").source, "unknown");
  assert.equal(flags.isOn("constructor"), false);
});

test("a payload that the server has not signed is refused", async () => {
  server.forged = (signature) => signature.replace(/^./, (first) => (first === "A" ? "B" : "A"));
  const flags = open();
  await flags.ready();
  assert.deepEqual([flags.isOn("cart"), flags.version, errors], [false, 0, ["bad_signature"]]);
  assert.equal(storage.size, 0);
});

test("a pinned key is the only one that counts", async () => {
  const other = new FakeServer();
  const wrong = open({ signingKey: other.publicKey });
  await wrong.ready();
  wrong.close(); // or it asks again, and finds the error again
  assert.deepEqual([wrong.isOn("cart"), errors], [false, ["bad_signature"]]);
  const right = open({ signingKey: server.publicKey });
  await right.ready();
  assert.equal(right.isOn("cart"), true);
  assert.equal(server.count("/v1/flags/signing-key"), 0);
  const none = open({ signingKey: "AAAA" });
  await none.ready();
  assert.deepEqual(errors, ["bad_signature", "unverifiable"]);
});

test("an announced version is fetched at once", async () => {
  const flags = open();
  await flags.ready();
  await until(() => server.streams.size === 1);
  let heard = 0;
  flags.onChange((version) => (heard = version));
  server.publish({ cart: { defaultValue: false } });
  await until(() => heard === 2);
  assert.equal(flags.isOn("cart"), false);
  assert.equal(server.requests.find(({ path }) => path === "/v1/flags/stream").query.get("key"), "b");
  flags.close();
  await until(() => server.streams.size === 0);
});

test("a version that another process has announced is asked for until it is there", async () => {
  const flags = open();
  await flags.ready();
  await until(() => server.streams.size === 1);
  const random = Math.random;
  Math.random = () => 0;
  for (const stream of server.streams) stream.write('event: version\ndata: {"version": 2}\n\n');
  await until(() => server.count("/v1/flags/payload") > 3);
  Math.random = random;
  server.publish({ cart: { defaultValue: false } });
  await until(() => flags.version === 2);
});

test("without a stream the page asks again and again", async () => {
  server.broken["/v1/flags/stream"] = 500;
  for (const options of [{ stream: false }, {}]) {
    const flags = open({ ...options, pollMs: 20 });
    await flags.ready();
    server.publish({ cart: { defaultValue: flags.version } });
    await until(() => flags.version === server.version);
    flags.close();
  }
});

test("a server that comes back is found again", async () => {
  server.broken["/v1/flags/payload"] = 503;
  const flags = open({ pollMs: 20 });
  await flags.ready();
  assert.deepEqual([flags.version, errors], [0, ["http"]]);
  const random = Math.random;
  Math.random = () => 0;
  server.broken = {};
  await flags.refresh();
  Math.random = random;
  assert.equal(flags.version, 1);
});

test("an older version does not come back, unless it was made later, from a backup", async () => {
  const flags = open();
  await flags.ready();
  server.publish({ cart: { defaultValue: false } }, 0);
  assert.equal((await flags.refresh()).code, "stale");
  assert.deepEqual([flags.version, flags.isOn("cart")], [1, true]);
  server.parts = { generated_ms: 2 };
  assert.equal(await flags.refresh(), undefined);
  assert.deepEqual([flags.version, flags.isOn("cart")], [0, false]);
});

test("a payload of an unknown format is refused", async () => {
  const flags = open();
  await flags.ready();
  server.parts = { format: 2 };
  server.publish({ cart: { defaultValue: false } });
  const { code, message } = await flags.refresh();
  assert.deepEqual([code, flags.version, flags.isOn("cart")], ["unsupported", 1, true]);
  assert.match(message, /format 2; this module reads format 1: update it/);
});

test("a page that cannot check signatures stops asking", async () => {
  const flags = open({ signingKey: "AAAA", pollMs: 0 });
  await flags.ready();
  assert.deepEqual(errors, ["unverifiable"]);
  await until(() => server.streams.size === 0);
  assert.equal(server.count("/v1/flags/payload"), 1);
});

test("the next page asks with the entity tag of the payload that the device keeps", async () => {
  const client = new FakeVisitor("d-1");
  await open({ client }).ready();
  server.requests = [];
  const next = open({ client });
  await next.ready();
  assert.deepEqual([next.version, next.isOn("cart")], [1, true]);
  const [{ headers }] = server.requests.filter(({ path }) => path === "/v1/flags/payload");
  assert.ok(headers["if-none-match"]);
  assert.equal(server.count("/v1/flags/signing-key"), 0);
  server.publish({ cart: { defaultValue: false } }, 0);
  assert.equal((await next.refresh()).code, "stale");
});

test("a broken stream is opened again after growing pauses, a lasting one soon", async (t) => {
  const { EventSource, setTimeout } = globalThis;
  const streams = [];
  globalThis.EventSource = class {
    constructor() {
      streams.push(this);
    }
    addEventListener() {}
    close() {}
  };
  try {
    const flags = open();
    await flags.ready();
    t.mock.method(Math, "random", () => 1);
    let now = 0;
    t.mock.method(Date, "now", () => now);
    const breakAfter = (lasted) => {
      let pause;
      globalThis.setTimeout = (work, milliseconds) => {
        if (milliseconds < 1_000) return setTimeout(work, milliseconds);
        pause = milliseconds;
        queueMicrotask(work);
      };
      const stream = streams.at(-1);
      if (lasted !== undefined) stream.onopen();
      now += lasted ?? 0;
      stream.onerror();
      globalThis.setTimeout = setTimeout;
      return pause;
    };
    const pauses = [];
    for (const lasted of [undefined, 1_000, 59_000, undefined, 60_000]) {
      pauses.push(breakAfter(lasted));
      await until(() => streams.length === pauses.length + 1);
    }
    assert.deepEqual(pauses, [2_000, 3_000, 5_000, 9_000, 2_000]);
    flags.close();
  } finally {
    Object.assign(globalThis, { EventSource, setTimeout });
  }
});

test("a page in the background opens no stream before it is shown", async () => {
  globalThis.document = Object.assign(new EventTarget(), { visibilityState: "hidden" });
  try {
    const flags = open();
    await flags.ready();
    assert.equal(flags.isOn("cart"), true);
    assert.equal(server.count("/v1/flags/stream"), 0);
    document.visibilityState = "visible";
    document.dispatchEvent(new Event("visibilitychange"));
    await until(() => server.streams.size === 1);
    document.visibilityState = "hidden";
    document.dispatchEvent(new Event("visibilitychange"));
    await until(() => server.streams.size === 0);
    flags.close();
  } finally {
    delete globalThis.document;
  }
});

test("a page without network uses the last payload, else defaults", async () => {
  const client = new FakeVisitor("d-1");
  const flags = open({ client });
  await flags.ready();
  flags.close();
  await server.stop();
  const later = open({ client });
  await until(() => later.version === 1);
  assert.equal(later.isOn("cart"), true);
  const pinned = open({ client, signingKey: new FakeServer().publicKey });
  storage.set("tactful.flags.payload", storage.get("tactful.flags.payload").replace("true", "false"));
  const changed = open({ client });
  storage.set("tactful.flags.payload", "{");
  const broken = open({ client });
  for (const page of [pinned, changed, broken]) {
    await page.ready();
    assert.deepEqual([page.version, page.value("cart", "default")], [0, "default"]);
  }
  assert.ok(errors.every((code) => code === "network"));
  server = await new FakeServer().start();
});

test("without consent nothing is stored or sent", async () => {
  const client = new FakeVisitor(undefined);
  const flags = open({ client, attributes: { id: "u-1" } }); // an id of the page is no consent
  await flags.ready();
  assert.equal(flags.value("price", 0), 1);
  await flags.refresh();
  assert.deepEqual([storage.size, client.events], [0, []]);
  assert.ok(server.requests.every(({ path }) => /payload|signing-key|stream/.test(path)));
  client.device = "d-1";
  assert.equal(flags.value("price", 0), 2);
  await until(() => client.events.length === 1);
  assert.ok(storage.has("tactful.flags.payload"));
});

test("an exposure is sent once, with the server's token", async () => {
  const client = new FakeVisitor("d-1");
  const flags = open({ client });
  await flags.ready();
  flags.explain("price");
  assert.equal(storage.has("tactful.flags.arms"), false);
  for (let count = 0; count < 3; count += 1) assert.equal(flags.value("price", 0), 2);
  await until(() => client.events.length === 1);
  const next = open({ client });
  await next.ready();
  next.value("price", 0);
  await next.refresh();
  assert.equal(client.events.length, 1);
  const [{ type, properties }] = client.events;
  const expected = { experiment: "price", arm: "new", flag: "price", version: 1, token: "t-1" };
  assert.deepEqual([type, properties], ["exposure", expected]);
  assert.equal(server.count("/v1/flags/token"), 1);
  assert.deepEqual(server.requests.find(({ path }) => path === "/v1/flags/token").body, { device_id: "d-1" });
});

test("a token is renewed before it ends", async () => {
  const client = new FakeVisitor("d-1");
  const soon = Date.now() + DAY_MS;
  storage.set("tactful.flags.token", JSON.stringify({ device: "d-1", token: "t-0", expires_at: soon }));
  const flags = open({ client });
  await flags.ready();
  flags.value("price", 0);
  await until(() => client.events.length === 1);
  const { body } = server.requests.find(({ path }) => path === "/v1/flags/token");
  assert.deepEqual(body, { device_id: "d-1", token: "t-0" });
  assert.equal(client.events[0].properties.token, "t-1");
});

test("a visitor who has not agreed to measurement is in no experiment", async () => {
  const client = new FakeVisitor("d-1");
  client.purposes = "personalisation";
  const flags = open({ client });
  await flags.ready();
  assert.deepEqual([flags.value("price", 0), flags.isOn("cart")], [1, true]);
  await flags.setAttributes({ id: "u-1" });
  assert.equal(flags.value("price", 0), 1);
  await flags.refresh();
  assert.deepEqual([client.events, server.count("/v1/flags/token")], [[], 0]);
});

test("without a token the exposure is sent nevertheless, and by the next page with it", async () => {
  server.broken["/v1/flags/token"] = 429;
  const client = new FakeVisitor("d-1");
  const flags = open({ client });
  await flags.ready();
  flags.value("price", 0);
  await until(() => client.events.length === 1);
  assert.equal(client.events[0].properties.token, undefined);
  flags.value("price", 0);
  flags.close();
  server.broken = {};
  const next = open({ client });
  await next.ready();
  next.value("price", 0);
  await until(() => client.events.length === 2);
  assert.equal(client.events[1].properties.token, "t-1");
});

test("an exposure of a page that was closed before its token came is sent by the next page", async () => {
  const client = new FakeVisitor("d-1");
  const flags = open({ client });
  await flags.ready();
  const before = Date.now();
  flags.value("price", 0);
  client.device = undefined; // nothing of this page is sent any more
  flags.close();
  await until(() => server.count("/v1/flags/token") === 1);
  const after = Date.now();
  const next = new FakeVisitor("d-1");
  server.broken["/v1/flags/token"] = 429;
  storage.delete("tactful.flags.token");
  await open({ client: next }).ready();
  await until(() => server.count("/v1/flags/token") === 2);
  server.broken = {};
  await open({ client: next }).ready();
  await until(() => next.events.length === 1);
  const [{ timestamp, properties }] = next.events;
  assert.ok(before <= timestamp && timestamp <= after);
  const expected = { experiment: "price", arm: "new", flag: "price", version: 1, token: "t-1" };
  assert.deepEqual(properties, expected);
  assert.equal(storage.get("tactful.flags.waiting"), "[]");
  const last = open({ client: next });
  await last.ready();
  last.value("price", 0);
  await last.refresh();
  assert.equal(next.events.length, 1);
});

test("a device whose clock is behind gives the time of the version", async () => {
  server.parts = { generated_ms: 4e12 };
  server.publish(price([0, 1]));
  const client = new FakeVisitor("d-1");
  const flags = open({ client });
  await flags.ready();
  flags.value("price", 0);
  await until(() => client.events.length === 1);
  assert.equal(client.events[0].timestamp, 4e12);
});

test("a full storage, one that is closed, and one with other content stop nothing", async () => {
  const full = { getItem: () => null, setItem: () => { throw new Error("full"); } };
  const closed = { get localStorage() { throw new Error("closed"); } };
  for (const name of ["sent", "waiting", "arms", "token"]) storage.set(`tactful.flags.${name}`, '{"a": 1}');
  for (const window of [globalThis.window, { localStorage: full }, closed]) {
    globalThis.window = window;
    const client = new FakeVisitor("d-1");
    const flags = open({ client });
    await flags.ready();
    flags.value("price", 0);
    await until(() => client.events.length === 1);
    server.publish(price([1, 0]));
    await flags.refresh();
    assert.equal(flags.value("price", 0), 2);
    assert.equal(client.events.length, 1);
    server.publish({ ...on, ...price([0, 1]) });
  }
});

test("consent that is withdrawn while the token is fetched stops the exposure", async () => {
  const client = new FakeVisitor("d-1");
  const flags = open({ client });
  await flags.ready();
  flags.value("price", 0);
  client.device = undefined;
  await until(() => server.count("/v1/flags/token") === 1);
  await flags.refresh();
  assert.deepEqual(client.events, []);
  assert.equal(storage.has("tactful.flags.token"), false);
});

test("a device keeps its arm when weights change, and another one does not get it", async () => {
  const client = new FakeVisitor("d-1");
  const flags = open({ client });
  await flags.ready();
  assert.equal(flags.value("price", 0), 2);
  server.publish(price([1, 0]));
  await until(() => flags.version === 2);
  assert.deepEqual([flags.value("price", 0), flags.explain("price").stickyUsed], [2, true]);
  const next = open({ client });
  await next.ready();
  assert.equal(next.value("price", 0), 2);
  client.device = "d-2";
  assert.equal(next.value("price", 0), 1);
});

test("two tabs keep the same arms and send an exposure once", async () => {
  const client = new FakeVisitor("d-1");
  const [first, second] = [open({ client }), open({ client })];
  await Promise.all([first.ready(), second.ready()]);
  second.isOn("cart");
  second.explain("price");
  first.value("price", 0);
  await until(() => client.events.length === 1);
  server.publish(price([1, 0]));
  await second.refresh();
  assert.deepEqual([second.value("price", 0), second.explain("price").stickyUsed], [2, true]);
  await second.refresh();
  assert.equal(client.events.length, 1);
  server.publish({ ...on, ...price([1, 0]) });
  client.device = "d-2";
  for (const tab of [first, second]) tab.value("price", 0); // both before there is a token
  await until(() => client.events.length === 2);
  await second.refresh();
  assert.equal(client.events.length, 2);
});

test("flags that only the server can evaluate are asked for, with consent", async () => {
  server.publish({ secret: { remote: true } });
  const client = new FakeVisitor("d-1");
  const flags = open({ client, attributes: { country: "CH" } });
  await flags.ready();
  assert.equal(flags.value("secret", "default"), "told");
  const { body } = server.requests.find(({ path }) => path === "/v1/assign");
  assert.deepEqual(body, {
    device_id: "d-1",
    attributes: { country: "CH" },
    flags: ["secret"],
    context: { consent: "measurement" },
    log: false,
    token: "t-1",
  });
  await until(() => client.events.length === 1);
  const { experiment, arm } = client.events[0].properties;
  assert.deepEqual([experiment, arm], ["hidden", "b"]);
  const explained = flags.explain("secret");
  assert.deepEqual([explained.source, explained.experiment, explained.arm], ["remote", "hidden", "b"]);
  client.device = undefined;
  assert.equal(flags.value("secret", "default"), "default");
  const other = open({ client });
  await other.ready();
  assert.equal(server.count("/v1/assign"), 1);
});

test("flags of the server are asked for again: after consent, other attributes and failures", async (t) => {
  t.mock.method(Math, "random", () => 0);
  server.publish({ secret: { remote: true } });
  server.told = { CH: "Swiss", AT: "Austrian" };
  const client = new FakeVisitor(undefined);
  const flags = open({ client, attributes: { country: "CH" } });
  await flags.ready();
  assert.equal(flags.value("secret", "none"), "none");
  client.device = "d-1";
  flags.isOn("secret");
  await until(() => flags.value("secret", "none") === "Swiss");
  const later = flags.setAttributes({ country: "AT" });
  assert.equal(flags.value("secret", "none"), "none");
  await Promise.all([later, flags.setAttributes({ country: "CH" })]);
  assert.equal(flags.value("secret", "none"), "Swiss");
  server.broken["/v1/assign"] = 503;
  await flags.setAttributes({ country: "AT" });
  assert.equal(flags.value("secret", "none"), "none");
  await until(() => errors.includes("http"));
  server.broken = {};
  await until(() => flags.value("secret", "none") === "Austrian");
});

test("a preview gives an arm and is no exposure", async () => {
  const client = new FakeVisitor("d-1");
  const flags = open({ client, previewUrl: "https://shop.example/?price=0" });
  await flags.ready();
  assert.equal(flags.value("price", 5), 1);
  await flags.refresh();
  assert.deepEqual([client.events, server.count("/v1/flags/token")], [[], 0]);
});
