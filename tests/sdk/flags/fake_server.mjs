// A small server of flags with a signing key, and the parts of a browser that Node lacks.
import { createServer } from "node:http";
import { createHash, generateKeyPairSync, sign, webcrypto } from "node:crypto";
import { EventSource } from "eventsource";

globalThis.EventSource = EventSource;
globalThis.crypto ??= webcrypto; // Node 18

/** Give the page an empty storage, and return it. */
export function emptyStorage() {
  const kept = new Map();
  const localStorage = {
    kept,
    getItem: (key) => kept.get(key) ?? null,
    setItem: (key, value) => void kept.set(key, value),
    removeItem: (key) => void kept.delete(key),
  };
  globalThis.window = { localStorage };
  return kept;
}

/** A visitor whose events are listed. */
export class FakeVisitor {
  events = [];
  purposes = "measurement";

  constructor(device) {
    this.device = device;
  }

  get consented() {
    return this.device !== undefined;
  }

  get deviceId() {
    return this.device;
  }

  track(event) {
    if (!this.consented) return undefined;
    this.events.push(event);
    return String(this.events.length);
  }
}

export class FakeServer {
  keys = generateKeyPairSync("ed25519");
  streams = new Set();
  requests = [];
  /** Status by path of requests that fail. */
  broken = {};
  version = 0;
  features = {};
  /** Further parts of the payload. */
  parts = { generated_ms: 1 };
  /** Answers of `POST /v1/assign`, by country. */
  told = {};

  constructor() {
    this.http = createServer((request, response) => this.answer(request, response));
  }

  async start(port = 0) {
    await new Promise((resolve) => this.http.listen(port, "127.0.0.1", resolve));
    this.url = `http://127.0.0.1:${this.http.address().port}`;
    return this;
  }

  async stop() {
    this.http.closeAllConnections();
    await new Promise((resolve) => this.http.close(resolve));
  }

  get publicKey() {
    const { x } = this.keys.publicKey.export({ format: "jwk" });
    return Buffer.from(x, "base64url").toString("base64");
  }

  /** Serve other features as the next version, and say so on all streams. */
  publish(features, version = this.version + 1) {
    Object.assign(this, { features, version });
    for (const stream of this.streams) this.tell(stream);
  }

  tell(stream) {
    stream.write(`event: version\ndata: {"version": ${this.version}}\n\n`);
  }

  /** Number of requests of a path. */
  count(path) {
    return this.requests.filter((request) => request.path === path).length;
  }

  envelope() {
    const { version, features } = this;
    const payload = JSON.stringify({ version, ...this.parts, features });
    const signature = sign(null, Buffer.from(payload), this.keys.privateKey).toString("base64");
    return { payload, signature: this.forged ? this.forged(signature) : signature, key_id: "k" };
  }

  async answer(request, response) {
    const { pathname: path, searchParams } = new URL(request.url, "http://fake");
    let body = "";
    for await (const part of request) body += part;
    const { headers } = request;
    this.requests.push({ path, headers, query: searchParams, body: body ? JSON.parse(body) : null });
    if (this.broken[path]) return response.writeHead(this.broken[path]).end("{}");
    if (path === "/v1/flags/stream") return this.open(response);
    const found = this.found(path, body ? JSON.parse(body) : {});
    const etag = `"${createHash("sha256").update(JSON.stringify(found)).digest("hex")}"`;
    if (headers["if-none-match"] === etag) return response.writeHead(304, { etag }).end();
    response.writeHead(200, { etag, "content-type": "application/json" }).end(JSON.stringify(found));
  }

  found(path, { attributes }) {
    if (path === "/v1/flags/payload") return this.envelope();
    if (path === "/v1/flags/signing-key") return { key_id: "k", public_key: this.publicKey };
    if (path === "/v1/flags/token") return { token: "t-1", expires_at: 4e12 };
    const secret = { value: this.told[attributes.country] ?? "told", source: "experiment", experiment: "hidden", arm: "b" };
    return { version: this.version, flags: { secret } };
  }

  open(response) {
    response.writeHead(200, { "content-type": "text/event-stream" });
    this.streams.add(response);
    response.on("close", () => this.streams.delete(response));
    this.tell(response);
  }
}

/** Wait for a condition. */
export async function until(holds) {
  const end = Date.now() + 20_000;
  while (!holds()) {
    if (Date.now() > end) throw new Error(`never: ${holds}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
