// Events on their way: batched, kept until the server has them, sent again with growing pauses.

import { randomId, type Shelf } from "./storage.js";
import { type Address, pauseMs, post, postOnLeave, TactfulError } from "./transport.js";
import type { EventsAccepted, PageEvent, SentEvent } from "./types.js";

const PATH = "/v1/events";
const TIMEOUT_MS = 10_000;
// Browsers let what outlives a page have 64 KiB in all, counted in bytes.
const LEAVE_BYTES = 60_000;

export interface OutboxOptions {
  batchSize: number;
  flushAfterMs: number;
  maxQueued: number;
  purposes: string;
  onError: (error: TactfulError) => void;
}

/** The events of one page, while there is consent. */
export class Outbox {
  private events: SentEvent[] = [];
  private sending: Promise<void> | undefined;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private readonly closed = new AbortController();
  private failures = 0;
  private notBefore = 0;
  private offline = false;
  private away = false;
  /** Ids of what was sent since the page was left. */
  private sentAway = new Set<string>();
  private limit: number;
  readonly deviceId: string;

  constructor(
    private readonly address: Address,
    private readonly shelf: Shelf,
    private readonly options: OutboxOptions,
  ) {
    this.limit = options.batchSize;
    this.deviceId = shelf.deviceId();
    shelf.adopt(Date.now(), (events) => this.add(events));
    if (this.events.length > 0) this.schedule();
  }

  /** Queue one event; returns its id. */
  put(event: PageEvent): string {
    const now = Date.now();
    const sent: SentEvent = {
      timestamp: now,
      event_id: randomId(),
      ...event,
      context: { ...event.context, consent: this.options.purposes },
      device_id: this.deviceId,
      session_id: this.shelf.sessionId(now),
    };
    this.add([sent]);
    if (this.events.length >= this.options.batchSize) void this.flush();
    else this.schedule();
    return sent.event_id;
  }

  /** Send what waits, now if the server does not want to be left alone; never rejects. */
  flush(): Promise<void> {
    this.sending ??= this.drain().finally(() => {
      this.sending = undefined;
      if (this.events.length > 0) this.schedule();
    });
    return this.sending;
  }

  /**
   * The page is left, for now or for good: send what fits, and keep all until it is answered for. What
   * is not is sent again by the next page, and counts once.
   */
  leave(): void {
    this.away = true;
    this.save();
    if (Date.now() < this.notBefore) return;
    const batch: SentEvent[] = [];
    const parts: string[] = [];
    let bytes = 2;
    // A page that goes is first hidden and then left: two calls.
    for (const event of this.events.filter(({ event_id }) => !this.sentAway.has(event_id))) {
      const part = JSON.stringify(event);
      bytes += new TextEncoder().encode(part).length + 1;
      if (bytes > LEAVE_BYTES || batch.length === this.limit) break;
      batch.push(event);
      parts.push(part);
      this.sentAway.add(event.event_id);
    }
    if (batch.length === 0) return;
    // Whatever becomes of it, the events are still there.
    postOnLeave<EventsAccepted>(this.address, PATH, `[${parts.join(",")}]`)
      ?.then((answer) => this.settle(batch, answer))
      .catch(() => undefined);
  }

  /** The page is shown again after all, so its events are its own. */
  stay(): void {
    this.away = false;
    this.sentAway.clear();
    this.save();
  }

  /** The network is back: there is no need to wait longer, unless the server asked for it. */
  online(): void {
    if (this.offline) this.notBefore = 0;
    void this.flush();
  }

  /** Send nothing more; with `forget` not even keep it. */
  close(forget: boolean): void {
    this.closed.abort();
    clearTimeout(this.timer);
    this.away = true;
    if (forget) this.events = [];
    this.save();
  }

  private async drain(): Promise<void> {
    while (this.events.length > 0 && !this.closed.signal.aborted && Date.now() >= this.notBefore) {
      const batch = this.events.slice(0, this.limit);
      const body = JSON.stringify(batch);
      try {
        const { signal } = this.closed;
        this.settle(batch, await post<EventsAccepted>(this.address, PATH, body, TIMEOUT_MS, signal));
      } catch (error) {
        if (this.closed.signal.aborted || !(error instanceof TactfulError)) return;
        if (!this.split(batch, error)) this.wait(error);
      }
    }
  }

  private settle(batch: SentEvent[], answer: EventsAccepted): void {
    if (this.closed.signal.aborted) return;
    this.failures = 0;
    this.notBefore = 0;
    this.offline = false;
    this.remove(batch);
    for (const { code, message } of answer.rejected) {
      this.options.onError(new TactfulError(code, message, 202));
    }
  }

  /** A batch that is too large as a whole is cut in halves; a single such event is given up. */
  private split(batch: SentEvent[], error: TactfulError): boolean {
    if (error.status !== 413 && error.status !== 400) return false;
    if (batch.length > 1) {
      this.limit = Math.ceil(batch.length / 2);
      return true;
    }
    if (error.status !== 413) return false;
    this.remove(batch);
    this.options.onError(error);
    return true;
  }

  private wait(error: TactfulError): void {
    this.failures += 1;
    // A key that is refused will not be right in a second: the longest pauses, at once.
    if (!error.passing) this.failures = Math.max(this.failures, 7);
    this.offline = error.status === 0;
    this.notBefore = Date.now() + pauseMs(this.failures, error, 1_000);
    this.options.onError(error);
  }

  private add(events: SentEvent[]): void {
    const known = new Set(this.events.map((event) => event.event_id));
    this.events.push(...events.filter((event) => !known.has(event.event_id)));
    const over = this.events.length - this.options.maxQueued;
    if (over > 0) {
      this.events.splice(0, over);
      const message = `${over} of the oldest events were dropped: more than maxQueued wait`;
      this.options.onError(new TactfulError("dropped", message));
    }
    this.save();
  }

  private remove(batch: SentEvent[]): void {
    const gone = new Set(batch.map((event) => event.event_id));
    this.events = this.events.filter((event) => !gone.has(event.event_id));
    this.save();
  }

  private save(): void {
    this.shelf.keep(this.events, this.away);
  }

  private schedule(): void {
    if (this.closed.signal.aborted) return;
    clearTimeout(this.timer);
    const pause = Math.max(this.options.flushAfterMs, this.notBefore - Date.now());
    this.timer = setTimeout(() => void this.flush(), pause);
  }
}
