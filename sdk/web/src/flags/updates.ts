// Updates of the payload: server-sent events, and polling where those cannot be had.

import { type Address, pauseMs, TactfulError } from "../transport.js";

/** The part of `EventSource` that is used. */
export interface Events {
  onopen: ((event: Event) => unknown) | null;
  onerror: ((event: Event) => unknown) | null;
  addEventListener(type: string, listener: (event: MessageEvent<string>) => void): void;
  close(): void;
}

export interface UpdateOptions {
  /** Milliseconds between two requests while there is no stream. */
  pollMs: number;
  /** Pages are asked to wait up to so many milliseconds, so that they do not all ask at once. */
  spreadMs: number;
  /** Opens a stream; undefined where there are none. */
  connect: ((url: string) => Events) | undefined;
  /** Fetches the payload; resolves to the error if it failed. */
  refresh: () => Promise<TactfulError | undefined>;
  /** Number of the version that is used now. */
  version: () => number;
}

// A stream that ends earlier counts as a failure: a proxy may end each one at once.
const LASTING_MS = 60_000;
const FIRST_PAUSE_MS = 1_000;
// With a stream, requests only guard against an event that was lost.
const RARELY = 10;
const LATE = new TactfulError("network", "the announced version is not there yet");

/** Follows a server as long as the page is visible. */
export class Updates {
  private events: Events | undefined;
  private streaming = false;
  private openedAt = 0;
  private failures = 0;
  private broken = 0;
  private asking = false;
  /** The latest version that the stream has announced. */
  private announced = 0;
  private stopped = true;
  /** Whether no payload can be used on this page, so that further requests are in vain. */
  private unusable = false;
  private poll: ReturnType<typeof setTimeout> | undefined;
  private retry: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly address: Address,
    private readonly options: UpdateOptions,
  ) {}

  /** Fetch now, and follow; it resolves when the first request has ended. */
  async start(): Promise<void> {
    if (!this.stopped || this.unusable) return;
    this.stopped = false;
    this.connect();
    await this.ask();
  }

  /** Stop following: a page that nobody sees needs no connection. */
  stop(): void {
    this.stopped = true;
    this.streaming = false;
    this.events?.close();
    this.events = undefined;
    clearTimeout(this.poll);
    clearTimeout(this.retry);
  }

  /** Fetch now, and again after a pause that grows with each failure. */
  async ask(): Promise<void> {
    clearTimeout(this.poll);
    this.asking = true;
    const error = await this.options.refresh();
    this.asking = false;
    // The next process of a server may not have the version yet that another one announced.
    const late = !error && this.announced > this.options.version();
    this.failures = error || late ? this.failures + 1 : 0;
    this.unusable = error?.code === "unverifiable";
    if (this.unusable) this.stop();
    if (this.stopped) return;
    const { pollMs } = this.options;
    if (error) this.later(pauseMs(this.failures, error, FIRST_PAUSE_MS));
    else if (late) this.later(pauseMs(this.failures, LATE, FIRST_PAUSE_MS));
    else this.later(pollMs * (this.streaming ? RARELY : 1) * (0.75 + Math.random() / 2));
  }

  private later(milliseconds: number): void {
    clearTimeout(this.poll);
    this.poll = setTimeout(() => void this.ask(), milliseconds);
  }

  private soon(): void {
    this.later(this.options.spreadMs * Math.random());
  }

  private connect(): void {
    const { connect } = this.options;
    if (!connect || this.stopped) return;
    const { url, key } = this.address;
    const query = key === undefined ? "" : `?key=${encodeURIComponent(key)}`;
    const events = connect(`${url}/v1/flags/stream${query}`);
    this.events = events;
    events.onopen = () => {
      this.streaming = true;
      this.openedAt = Date.now();
    };
    events.addEventListener("version", ({ data }) => this.heard(data));
    events.onerror = () => {
      if (this.streaming) this.soon();
      if (this.streaming && Date.now() - this.openedAt >= LASTING_MS) this.broken = 0;
      this.streaming = false;
      // A browser would open it again after fixed pauses, and not at all after an error of HTTP.
      this.reconnect(events);
    };
  }

  private reconnect(events: Events): void {
    events.close();
    this.broken += 1;
    clearTimeout(this.retry);
    const pause = FIRST_PAUSE_MS + pauseMs(this.broken, LATE, FIRST_PAUSE_MS);
    this.retry = setTimeout(() => this.connect(), pause);
  }

  private heard(data: string): void {
    let version: unknown;
    try {
      version = (JSON.parse(data) as { version?: unknown } | null)?.version;
    } catch {
      return;
    }
    if (typeof version !== "number") return;
    this.announced = version;
    if (!this.asking && version !== this.options.version()) this.soon();
  }
}
