// Exposures: the events that say which arm was applied to a device, each sent once.

import { type Address, post, type TactfulError } from "../transport.js";
import type { PageEvent } from "../types.js";
import type { Memory, Token, Waiting } from "./memory.js";

/** The part of a client that flags use: consent, the device, and the way of its events. */
export interface Visitor {
  readonly consented: boolean;
  readonly deviceId: string | undefined;
  /** Purposes that the visitor agreed to. */
  readonly purposes?: string;
  track(event: PageEvent): string | undefined;
}

/** An arm that was applied. */
export interface Applied {
  experiment: string;
  /** Phase and version of the experiment: a new one counts again. */
  phase: string;
  arm: string;
  flag: string;
  version: number;
  /** Time of the version, epoch milliseconds: a device's clock may be behind. */
  since: number;
}

const TIMEOUT_MS = 5_000;
const RENEWED_MS = 30 * 86_400_000;
const AGAIN_MS = 60_000;
// The server refuses exposures of versions that ended long ago.
const OLDEST_MS = 6 * 86_400_000;

/** Sends the exposures of one page. */
export class Exposures {
  private asking: { device: string; token: Promise<string | undefined> } | undefined;
  private againAt = Number.POSITIVE_INFINITY;
  /** Exposures of this page, whether they wait for the token or were sent. */
  private readonly pending = new Set<string>();

  constructor(
    private readonly address: Address,
    private readonly visitor: Visitor,
    private readonly memory: Memory,
  ) {}

  /**
   * Send an exposure once for each device, experiment and arm, with the token that the server gave this
   * device. Without a token it is sent nevertheless; it decides nothing then, and a later page repeats
   * it. Without consent nothing is sent.
   */
  send(applied: Applied): void {
    const { consented, deviceId: device } = this.visitor;
    const { experiment, phase, arm, flag, version, since } = applied;
    const key = JSON.stringify([device, experiment, phase, arm]);
    if (!consented || !device || this.pending.has(key) || this.memory.wasSent(key)) return;
    this.pending.add(key);
    const properties = { experiment, arm, flag, version };
    const waiting = { key, device, timestamp: Math.max(Date.now(), since), properties };
    this.memory.keepWaiting(waiting); // the page may be closed before the token is there
    void this.token(device).then((token) => this.deliver(waiting, token));
  }

  /** Send the exposures that earlier pages could not send with a token. */
  resume(): void {
    const { deviceId: device } = this.visitor;
    const oldest = Date.now() - OLDEST_MS;
    const mine = this.memory.waiting.filter((it) => it.device === device && it.timestamp > oldest);
    if (!device || mine.length === 0) return;
    void this.token(device).then((token) => {
      for (const waiting of mine) {
        if (!token || this.pending.has(waiting.key) || this.memory.wasSent(waiting.key)) continue;
        this.pending.add(waiting.key);
        this.deliver(waiting, token);
      }
    });
  }

  /**
   * Return the token of a device: from the server at first contact, and in the last 30 days of its
   * validity. Undefined if the server gives none.
   */
  token(device: string): Promise<string | undefined> {
    const kept = this.memory.token(device);
    if (kept && kept.expires_at > Date.now() + RENEWED_MS) return Promise.resolve(kept.token);
    if (this.asking?.device !== device || Date.now() >= this.againAt) {
      this.againAt = Number.POSITIVE_INFINITY;
      this.asking = { device, token: this.ask(device, kept?.token) };
    }
    return this.asking.token;
  }

  private deliver({ key, device, timestamp, properties }: Waiting, token: string | undefined): void {
    if (this.visitor.deviceId !== device) return; // consent was withdrawn meanwhile
    const sent = { ...properties, ...(token && { token }) };
    const id = this.visitor.track({ type: "exposure", timestamp, properties: sent });
    if (id && token) this.memory.markSent(key);
  }

  private async ask(device: string, former: string | undefined): Promise<string | undefined> {
    try {
      const body = JSON.stringify({ device_id: device, ...(former && { token: former }) });
      const answer = await post<Token>(this.address, "/v1/flags/token", body, TIMEOUT_MS);
      if (this.visitor.deviceId === device) this.memory.keepToken(device, answer);
      return answer.token;
    } catch (error) {
      this.againAt = Date.now() + Math.max(AGAIN_MS, (error as TactfulError).retryAfterMs || 0);
      return former;
    }
  }
}
