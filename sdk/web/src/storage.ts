// What the client keeps on the device: a random id, the visit, and events that wait. Nothing else,
// and nothing before consent: no function here is called earlier.

import type { SentEvent } from "./types.js";

const VISIT_MS = 30 * 60_000;
const ABANDONED_MS = 60_000;
// The server knows an event id again for seven days; an older event might count twice.
const OLDEST_MS = 6 * 24 * 3_600_000;

interface Waiting {
  /** When the page last wrote it; 0 when the page was left. */
  at: number;
  events: SentEvent[];
}

/** 128 random bits, as text. */
export function randomId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** What lies under keys that begin with `prefix`. */
export class Shelf {
  /** Key of the device id. */
  readonly device: string;
  private readonly queues: string;
  private readonly mine: string;
  private readonly store = open();

  constructor(private readonly prefix: string) {
    this.device = `${prefix}device`;
    this.queues = `${prefix}queue.`;
    // One key for each page, because two pages that rewrite one key lose each other's events.
    this.mine = this.queues + randomId();
  }

  deviceId(): string {
    const known = this.store.get(this.device);
    if (known) return known;
    const made = randomId();
    this.put(this.device, made);
    return made;
  }

  /** The visit: it ends after half an hour in which nothing happened. */
  sessionId(now: number): string {
    const key = `${this.prefix}session`;
    const [known = "", at = "0"] = (this.store.get(key) ?? "").split(" ");
    const id = known && now - Number(at) < VISIT_MS ? known : randomId();
    this.put(key, `${id} ${now}`);
    return id;
  }

  /** Keep the events of this page; `left` tells the next page that it may have them. */
  keep(events: SentEvent[], left: boolean): void {
    if (events.length === 0) return this.store.remove(this.mine);
    const waiting: Waiting = { at: left ? 0 : Date.now(), events };
    this.put(this.mine, JSON.stringify(waiting));
  }

  /**
   * Take over the events of pages that are gone. Should one of them live and send its events, too,
   * they count once, and it keeps what it has added since.
   */
  adopt(now: number, taken: (events: SentEvent[]) => void): void {
    for (const key of this.keys()) {
      if (!key.startsWith(this.queues) || key === this.mine) continue;
      const text = this.store.get(key);
      const waiting = parse(text);
      if (waiting && now - waiting.at < ABANDONED_MS) continue;
      taken((waiting?.events ?? []).filter((event) => now - event.timestamp < OLDEST_MS));
      if (this.store.get(key) === text) this.store.remove(key);
    }
  }

  /** Forget everything, of all pages. */
  wipe(): void {
    for (const key of this.keys()) this.store.remove(key);
  }

  private keys(): string[] {
    return this.store.keys().filter((key) => key.startsWith(this.prefix));
  }

  private put(key: string, value: string): void {
    try {
      this.store.set(key, value);
    } catch {
      // The storage is full or closed: what waits lives as long as the page.
    }
  }
}

function parse(text: string | null): Waiting | undefined {
  try {
    const value = JSON.parse(text ?? "") as Partial<Waiting> | null;
    if (typeof value?.at !== "number" || !Array.isArray(value.events)) return undefined;
    const events = value.events.filter((event) => typeof event?.event_id === "string");
    return { at: value.at, events };
  } catch {
    return undefined;
  }
}

/** Values by key. */
export interface Store {
  get(key: string): string | null;
  set(key: string, value: string): void;
  remove(key: string): void;
  keys(): string[];
}

/** localStorage; in memory, for as long as the page lives, where it is closed to the page. */
export function open(): Store {
  try {
    const storage = window.localStorage;
    return {
      get: (key) => storage.getItem(key),
      set: (key, value) => storage.setItem(key, value),
      remove: (key) => storage.removeItem(key),
      keys: () => Object.keys(storage),
    };
  } catch {
    const held = new Map<string, string>();
    return {
      get: (key) => held.get(key) ?? null,
      set: (key, value) => void held.set(key, value),
      remove: (key) => void held.delete(key),
      keys: () => [...held.keys()],
    };
  }
}
