// Data of flags on the device: the last payload, kept arms, sent exposures and the token. It is written
// with consent only, under the client's prefix, so that withdrawing consent deletes it.

import { open, type Store } from "../storage.js";
import type { Signed } from "./payload.js";
import type { StickyArms, StickyDocument } from "./sticky.js";

const MOST_SENT = 500;
const MOST_UNITS = 20;

/** Proof that the server knows a device, as it answers. */
export interface Token {
  token: string;
  /** Epoch milliseconds. */
  expires_at: number;
}

/** Values that a page keeps, in memory and, with consent, on the device. */
export class Memory implements StickyArms {
  private readonly store: Store = open();
  private readonly prefix: string;
  private readonly held = new Map<string, unknown>();

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

  /** Return whether an exposure was sent. */
  wasSent(exposure: string): boolean {
    return this.read<string[]>("sent")?.includes(exposure) ?? false;
  }

  markSent(exposure: string): void {
    this.write("sent", [...(this.read<string[]>("sent") ?? []), exposure].slice(-MOST_SENT));
  }

  /** Another visitor, or none: only the payload stays, which is the same for everybody. */
  forget(): void {
    const payload = this.held.get("payload");
    this.held.clear();
    if (payload) this.write("payload", payload);
  }

  private read<T>(name: string): T | undefined {
    if (!this.held.has(name) && this.mayStore()) this.held.set(name, this.load(name));
    return this.held.get(name) as T | undefined;
  }

  private load(name: string): unknown {
    try {
      return JSON.parse(this.store.get(this.prefix + name) ?? "null") ?? undefined;
    } catch {
      return undefined; // another program, or an older version, wrote it
    }
  }

  private write(name: string, value: unknown): void {
    this.held.set(name, value);
    if (!this.mayStore()) return;
    try {
      this.store.set(this.prefix + name, JSON.stringify(value));
    } catch {
      // The storage is full or closed: the value lives as long as the page.
    }
  }
}
