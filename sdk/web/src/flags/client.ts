// Flags and experiments of a page, evaluated on the device from one signed payload.

import { type Address, post, TactfulError, withScheme } from "../transport.js";
import { withDerived } from "./derived.js";
import { evaluateFeature, type FeatureResult } from "./evaluate.js";
import { type Evaluation, explain } from "./explain.js";
import { Exposures, type Visitor } from "./exposures.js";
import { hasOwn, isObject, type Json, type JsonObject } from "./json.js";
import { Memory } from "./memory.js";
import type { Payload } from "./model.js";
import { PayloadSource, type Signed } from "./payload.js";
import type { StickyArms } from "./sticky.js";
import { type Events, Updates } from "./updates.js";

/** How flags are read. */
export interface FlagsOptions {
  /** Address of the server, as for `Tactful`. */
  url: string;
  /** A key with the scope `browser`; none for a server in `--dev`. */
  key?: string;
  /**
   * The page's `Tactful`, for consent, the device id and exposures. Without it nothing is stored or
   * sent, there is no question of consent, and `attributes.id` is the unit of experiments.
   */
  client?: Visitor;
  /** Attributes that conditions read, such as country and plan; `id` is the device if left out. */
  attributes?: JsonObject;
  /** The server's public key, 32 bytes in base64; the server is asked for it if left out. */
  signingKey?: string;
  /** Whether to follow the server's events; else the payload is only polled. True if left out. */
  stream?: boolean;
  /** Milliseconds between requests without a stream; 60,000 if left out. */
  pollMs?: number;
  /** Longest random wait before an announced version is fetched, milliseconds; 500 if left out. */
  spreadMs?: number;
  /** `?KEY=1` in this address gives an arm for a preview; such values are no exposures. */
  previewUrl?: string;
  /** Prefix of all keys in localStorage; that of the client, `tactful.`, if left out. */
  storagePrefix?: string;
  /** Called with errors in the background; flags keep their last values. */
  onError?: (error: TactfulError) => void;
}

const REMOTE_TIMEOUT_MS = 5_000;

/** Values that the server gave, with their experiments. */
type Assigned = Record<string, { value: Json; experiment?: string | null; arm?: string | null }>;

/** The flags of one server for one visitor. */
export class Flags {
  private readonly address: Address;
  private readonly memory: Memory;
  private readonly source: PayloadSource;
  private readonly updates: Updates;
  private readonly exposures: Exposures | undefined;
  private payload: Payload = { features: {} };
  private given: JsonObject;
  private derived: JsonObject | undefined;
  private device: string | undefined;
  /** Values of flags that only the server can evaluate. */
  private remote: Assigned = {};
  /** Whether the server has yet to give those values. */
  private unanswered = false;
  /** The latest payload that the server has confirmed since the page was loaded. */
  private confirmed: Payload | undefined;
  private closed = false;
  private readonly listeners = new Set<(version: number) => void>();
  private readonly starting: Promise<void>;

  constructor(private readonly options: FlagsOptions) {
    const { client, url, key, signingKey, stream = true, pollMs = 60_000, spreadMs = 500 } = options;
    this.address = { url: withScheme(url), key };
    this.given = options.attributes ?? {};
    this.device = this.unit;
    const mayStore = () => client?.consented ?? false;
    this.memory = new Memory(options.storagePrefix ?? "tactful.", mayStore);
    this.source = new PayloadSource(this.address, signingKey);
    this.exposures = client && new Exposures(this.address, client, this.memory);
    const streams = stream && typeof EventSource === "function";
    this.updates = new Updates(this.address, {
      pollMs,
      spreadMs,
      connect: streams ? (target): Events => new EventSource(target) : undefined,
      refresh: () => this.refresh(),
      version: () => this.version,
    });
    this.starting = this.start();
    if (typeof document === "object") document.addEventListener("visibilitychange", this.seen);
  }

  /** Number of the version of the flags; 0 before the first payload. */
  get version(): number {
    return this.payload.version ?? 0;
  }

  /**
   * Wait for the answer of the server, but no longer than `timeoutMs` milliseconds. If it cannot be
   * reached, the last values that this device has kept hold, else defaults. It never rejects.
   */
  ready(timeoutMs = 2_000): Promise<void> {
    let timer: ReturnType<typeof setTimeout>;
    const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, timeoutMs)));
    return Promise.race([this.starting, late]).finally(() => clearTimeout(timer));
  }

  /** Return whether the value of a flag counts as true; an unknown flag is off. */
  isOn(key: string): boolean {
    return Boolean(this.used(key).value);
  }

  /** Return the value of a flag; `fallback` if there is none, or one of another type. */
  value(key: string, fallback: boolean): boolean;
  value(key: string, fallback: number): number;
  value(key: string, fallback: string): string;
  value(key: string, fallback: null): Json;
  value<T>(key: string, fallback: T): T;
  value(key: string, fallback: unknown): unknown {
    const { value } = this.used(key);
    const same = fallback === null || kind(value) === kind(fallback);
    return value === null || !same ? fallback : value;
  }

  /** Return the value of a flag with the reason; it counts as no exposure. */
  explain(key: string): Evaluation {
    const { memory } = this;
    const found = explain(this.evaluate(key, { get: (unit) => memory.get(unit), set: () => undefined }));
    if (found.source !== "remote" || !hasOwn(this.remote, key)) return found;
    const { experiment = null, arm = null } = this.remote[key]!;
    return { ...found, experiment, arm };
  }

  /**
   * Replace the attributes, for example after a login. It resolves when values that only the server can
   * give are there, too.
   */
  async setAttributes(attributes: JsonObject): Promise<void> {
    this.given = attributes;
    this.derived = undefined;
    this.remote = {}; // they belong to the former attributes
    if (await this.assign()) void this.updates.ask(); // it repeats the request after growing pauses
    this.changed();
  }

  /**
   * Call `listener` with the version whenever values may have changed.
   *
   * @returns a function that ends this.
   */
  onChange(listener: (version: number) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Fetch the payload now; resolves to the error if that failed. */
  async refresh(): Promise<TactfulError | undefined> {
    try {
      const found = await this.source.fetch();
      if (this.closed) return undefined;
      if (found) this.accept(found);
      else this.confirmed = this.payload;
      if (!found && !this.unanswered) return undefined;
      const failure = await this.assign();
      this.changed();
      return failure;
    } catch (error) {
      const failure = error instanceof TactfulError ? error : new TactfulError("bad_answer", String(error));
      this.failed(failure);
      return failure;
    }
  }

  /** Stop: nothing is fetched or sent any more; values stay as they are. */
  close(): void {
    this.closed = true;
    this.updates.stop();
    if (typeof document === "object") document.removeEventListener("visibilitychange", this.seen);
  }

  private readonly seen = (): void => {
    if (hidden()) this.updates.stop();
    else void this.updates.start();
  };

  private async start(): Promise<void> {
    await this.restore();
    this.exposures?.resume();
    // A page in the background takes no connection: browsers have only a few for each server.
    await (hidden() ? this.refresh() : this.updates.start());
  }

  /** Use the payload that this device has kept, until the server answers. */
  private async restore(): Promise<void> {
    const { signed } = this.memory;
    if (!signed) return;
    try {
      this.use(await this.source.restore(signed));
      this.changed();
    } catch {
      // Somebody changed the storage, or the key is another one now: the server's answer replaces it.
    }
  }

  private accept({ payload, signed }: { payload: Payload; signed: Signed }): void {
    // A cache between server and page must not bring an older version back. A server with an older
    // backup has lower numbers, but later times.
    if (this.confirmed && isOlder(payload, this.confirmed)) {
      throw new TactfulError("stale", "the answer holds an older version of the flags");
    }
    this.memory.signed = signed;
    this.confirmed = payload;
    this.use(payload);
  }

  private use(payload: Payload): void {
    this.payload = payload;
    this.derived = undefined;
  }

  /** Evaluate a flag that the page uses: arms that are applied are exposures. */
  private used(key: string): FeatureResult {
    const found = this.evaluate(key, this.memory);
    const { experiment, experimentResult: result } = found;
    if (experiment && result?.hashUsed) {
      const { phase = "", bucketVersion = 0 } = experiment;
      this.expose(experiment.key, result.key, key, `${phase}/${bucketVersion}`);
    } else if (found.source === "remote" && hasOwn(this.remote, key)) {
      const { experiment: name, arm } = this.remote[key]!;
      if (name && arm) this.expose(name, arm, key, "");
    }
    return found;
  }

  private expose(experiment: string, arm: string, flag: string, phase: string): void {
    if (this.unit === undefined) return;
    const { version = 0, generated_ms: since = 0 } = this.payload;
    this.exposures?.send({ experiment, phase, arm, flag, version, since });
  }

  private evaluate(key: string, sticky: StickyArms): FeatureResult {
    const attributes = this.attributes();
    const { previewUrl: url } = this.options;
    const { payload, nobody: preview } = this;
    const found = evaluateFeature({ payload, attributes, sticky, url, preview }, key);
    if (found.source !== "remote" || !hasOwn(this.remote, key)) return found;
    return { ...found, value: this.remote[key]!.value };
  }

  /** The device, if its visitor has agreed to experiments; else no share of users includes it. */
  private get unit(): string | undefined {
    const { deviceId, purposes = "measurement" } = this.options.client ?? {};
    return purposes.split(" ").includes("measurement") ? deviceId : undefined;
  }

  /** Whether the visitor has not agreed to experiments, whatever id the page gives. */
  private get nobody(): boolean {
    return this.options.client !== undefined && this.unit === undefined;
  }

  private attributes(): JsonObject {
    if (this.unit !== this.device) this.turn();
    if (this.derived) return this.derived;
    const own = this.device === undefined ? {} : { id: this.device, device_id: this.device };
    const given = this.nobody ? withoutIds(this.given) : { ...own, ...this.given };
    this.derived = withDerived(given, this.payload.hashed);
    return this.derived;
  }

  /** Go on for another visitor, after consent was given or withdrawn. */
  private turn(): void {
    this.device = this.unit;
    this.derived = undefined;
    this.remote = {};
    this.memory.forget();
    this.exposures?.resume();
    void this.assign().then(() => this.changed());
  }

  /** Ask the server for the flags that only it can evaluate; attributes leave the device with consent. */
  private async assign(): Promise<TactfulError | undefined> {
    const flags = Object.keys(this.payload.features).filter((key) => this.payload.features[key]?.remote);
    const { unit: device_id, given } = this;
    this.unanswered = flags.length > 0 && device_id !== undefined;
    if (!this.unanswered || !device_id || !this.exposures) return undefined;
    const token = await this.exposures.token(device_id);
    const attributes = withoutIds(given);
    const context = { consent: this.options.client?.purposes ?? "measurement" };
    const request = { device_id, attributes, flags, context, log: false, ...(token && { token }) };
    try {
      const body = JSON.stringify(request);
      const answer = await post<{ flags: Assigned }>(this.address, "/v1/assign", body, REMOTE_TIMEOUT_MS);
      // The answer for former attributes is of no use.
      if (this.unit !== device_id || this.given !== given) return undefined;
      this.remote = isObject(answer?.flags) ? answer.flags : {};
      this.unanswered = false;
      return undefined;
    } catch (error) {
      const failure = error as TactfulError;
      this.failed(failure);
      return failure;
    }
  }

  // Both call the page later, so that an error it throws stops nothing here.
  private changed(): void {
    if (this.closed) return;
    for (const listener of this.listeners) queueMicrotask(() => listener(this.version));
  }

  private failed(error: TactfulError): void {
    if (this.closed) return;
    queueMicrotask(() => this.options.onError?.(error));
  }
}

function hidden(): boolean {
  return typeof document === "object" && document.visibilityState === "hidden";
}

/** Return whether a payload was made before another one. */
function isOlder(payload: Payload, other: Payload): boolean {
  const made = payload.generated_ms ?? 0;
  return (payload.version ?? 0) < (other.version ?? 0) && made <= (other.generated_ms ?? 0);
}

/** Return attributes without those that identify a visitor. */
function withoutIds({ id, device_id, user_id, ...attributes }: JsonObject): JsonObject {
  return attributes;
}

function kind(value: unknown): string {
  return Array.isArray(value) ? "array" : typeof value;
}
