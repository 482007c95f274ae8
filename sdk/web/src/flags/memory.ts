// Data of flags on the device: the last payload, kept arms, exposures and the token. It is written with
// consent only, under the client's prefix, so that withdrawing consent deletes it.

import { open, type Store } from "../storage.js";
import type { Signed } from "./payload.js";
import type { StickyArms, StickyDocument } from "./sticky.js";

const MOST_SENT = 500;
const MOST_WAITING = 50;
const MOST_UNITS = 20;

/** Proof that the server knows a device, as it answers. */
export interface Token {
  token: string;
  /** Epoch milliseconds. */
  expires_at: number;
}

/** An exposure that the server has not received with a token. */
export interface Waiting {
  /** Device, experiment, phase and arm as one text. */
  key: string;
  device: string;
  /** Epoch milliseconds. */
  timestamp: number;
  properties: Record<string, string | number>;
}

/** A value, and the text of the storage that it belongs to; null for none. */
interface Held {
  text: string | null;
  value: unknown;
}

/**
 * Values that a page keeps, in memory and, with consent, on the device. Pages of one visitor share them:
 * what another tab has written is read again.
 */
export class Memory implements StickyArms {
  private readonly store: Store = open();
  private readonly prefix: string;
  private readonly held = new Map<string, Held>();

  /**
   * @param prefix begins all keys of the client.
   * @param mayStore returns whether there is consent now.
   */
  constructor(
    prefix: string,
    private readonly mayStore: () => boolean,
  ) {
    this.prefix = `${prefix}flags.`;
  }

  /** The last payload with a valid signature. */
  get signed(): Signed | undefined {
    return this.read<Signed>("payload");
  }

  set signed(signed: Signed | undefined) {
    this.write("payload", signed);
  }

  /** The server's token of a device. */
  token(device: string): Token | undefined {
    const kept = this.read<Token & { device: string }>("token");
    return kept?.device === device ? kept : undefined;
  }

  keepToken(device: string, { token, expires_at }: Token): void {
    this.write("token", { device, token, expires_at });
  }

  get(unit: string): StickyDocument | undefined {
    return this.read<Record<string, StickyDocument>>("arms")?.[unit];
  }

  set(unit: string, document: StickyDocument): void {
    const arms = { ...this.read<Record<string, StickyDocument>>("arms") };
    delete arms[unit];
    const newest = [...Object.entries(arms), [unit, document] as const].slice(-MOST_UNITS);
    this.write("arms", Object.fromEntries(newest));
  }

  /** Return whether an exposure was sent with a token. */
  wasSent(exposure: string): boolean {
    return this.list<string>("sent").includes(exposure);
  }

  markSent(exposure: string): void {
    this.write("sent", [...this.list("sent"), exposure].slice(-MOST_SENT));
    const others = this.waiting.filter(({ key }) => key !== exposure);
    if (others.length < this.waiting.length) this.write("waiting", others);
  }

  /** Exposures of this page and of earlier ones that the server has not received with a token. */
  get waiting(): Waiting[] {
    return this.list<Waiting>("waiting");
  }

  keepWaiting(exposure: Waiting): void {
    if (this.waiting.some(({ key }) => key === exposure.key)) return;
    this.write("waiting", [...this.waiting, exposure].slice(-MOST_WAITING));
  }

  /** Another visitor, or none: only the payload stays, which is the same for everybody. */
  forget(): void {
    const payload = this.held.get("payload");
    this.held.clear();
    if (payload?.value) this.write("payload", payload.value);
  }

  private list<T>(name: string): T[] {
    const value = this.read<T[]>(name);
    return Array.isArray(value) ? value : [];
  }

  private read<T>(name: string): T | undefined {
    const held = this.held.get(name);
    if (!this.mayStore()) return held?.value as T | undefined;
    const text = this.stored(name);
    if (held?.text === text) return held.value as T;
    const value = parsed(text) as T | undefined;
    this.held.set(name, { text, value });
    return value;
  }

  private stored(name: string): string | null {
    try {
      return this.store.get(this.prefix + name);
    } catch {
      return null; // the storage is closed to the page
    }
  }

  private write(name: string, value: unknown): void {
    if (!this.mayStore()) {
      this.held.set(name, { text: null, value });
      return;
    }
    const text = JSON.stringify(value);
    try {
      this.store.set(this.prefix + name, text);
      this.held.set(name, { text, value });
    } catch {
      // The storage is full or closed: the value lives as long as the page.
      this.held.set(name, { text: this.stored(name), value });
    }
  }
}

function parsed(text: string | null): unknown {
  try {
    return JSON.parse(text ?? "null") ?? undefined;
  } catch {
    return undefined; // another program, or an older version, wrote it
  }
}
