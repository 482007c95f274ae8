// Exposures: the events that say which arm was applied to a device, each sent once.

import { type Address, post, type TactfulError } from "../transport.js";
import type { PageEvent } from "../types.js";
import type { Memory, Token } from "./memory.js";

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
}

const TIMEOUT_MS = 5_000;
const RENEWED_MS = 30 * 86_400_000;
const AGAIN_MS = 60_000;

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
   * device. Without a token it is sent nevertheless; it decides nothing then, and the next page repeats
   * it. Without consent nothing is sent.
   */
  send(applied: Applied): void {
    const { consented, deviceId } = this.visitor;
    const { experiment, phase, arm, flag, version } = applied;
    const key = JSON.stringify([deviceId, experiment, phase, arm]);
    if (!consented || !deviceId || this.pending.has(key) || this.memory.wasSent(key)) return;
    this.pending.add(key);
    const timestamp = Date.now();
    void this.token(deviceId).then((token) => {
      if (this.visitor.deviceId !== deviceId) return; // consent was withdrawn meanwhile
      const properties = { experiment, arm, flag, version, ...(token && { token }) };
      const sent = this.visitor.track({ type: "exposure", timestamp, properties });
      if (sent && token) this.memory.markSent(key);
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
