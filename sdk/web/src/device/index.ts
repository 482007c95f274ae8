// The browser as a device: history of the visitor, model, and private training. Consent comes first.

import { enrolAt } from "./connection.js";
import { require } from "./errors.js";
import { coarse, type FireOptions, PageIntent } from "./intent.js";
import { type Invitation, readInvitation } from "./invitation.js";
import { Meter, type Surroundings, watchPage } from "./limits.js";
import { Model } from "./model.js";
import { takePart } from "./participant.js";
import type { Part } from "./personalise.js";
import { primitives } from "./primitives.js";
import type { Random } from "./sharing.js";
import { ModelSlot } from "./slot.js";
import { DataDeleted, DeviceStore } from "./store.js";
import { Vocabulary } from "./tokens.js";
import {
  type Foresight,
  readTriggers,
  TELLING,
  type Telling,
  type Trigger,
  type TriggerFile,
} from "./triggers.js";

export { DeviceError } from "./errors.js";
export type { FireOptions } from "./intent.js";
export { type Surroundings, watchPage } from "./limits.js";
export type {
  AboutTo,
  Calibration,
  Foresight,
  Telling,
  Trigger,
  TriggerFile,
  TriggerLimits,
} from "./triggers.js";

export interface Options {
  /** Text of `invitation.json`, from the origin of the page or another one that you trust. */
  invitation: string;
  /** Address of the server that leads rounds; a path is one of the page's own server. */
  url: string;
  /**
   * Address of the enrolling authority, as `tactful federated enrol-pages` serves it; or a function
   * that returns the encoded enrolment of a public key of 32 bytes.
   */
  enrol: string | ((identity: Uint8Array) => Promise<Uint8Array>);
  /** Whether the visitor has consented already, as your consent dialogue remembers it. */
  consent?: boolean;
  /** Whether Global Privacy Control and Do Not Track count as a refusal; true if left out. */
  honourSignals?: boolean;
  /** Seconds of computing on a UTC day where the browser does not know about a charger; 20. */
  secondsPerDay?: number;
  /** Layers of the model that are fitted to the visitor; `head` if left out. */
  own?: Part;
  /** Name of the database; `tactful-device` if left out. */
  database?: string;
  /** State of the page and of the machine; those of the browser if left out. */
  surroundings?: Surroundings;
  /** Called with each refusal or outage in the background. */
  onError?: (error: Error) => void;
  /** Called after each answered stage, from 1 to 5, or to 6 over a sparse graph. */
  onStage?: (stage: number) => void;
}

const random: Random = (length) => crypto.getRandomValues(new Uint8Array(length));

/** Device of the visitor in one run. */
export class PageDevice {
  readonly invitation: Invitation;
  private readonly vocabulary: Vocabulary;
  private readonly surroundings: Surroundings;
  private consent = false;
  private store: Promise<DeviceStore> | undefined;
  private intents: Promise<PageIntent> | undefined;
  private working: AbortController | undefined;
  private tabs: BroadcastChannel | undefined;

  constructor(private readonly options: Options) {
    this.invitation = readInvitation(options.invitation);
    this.vocabulary = new Vocabulary(this.invitation.categories);
    const { embedding, hidden, plan } = this.invitation;
    const planned = new Model(this.vocabulary.size, embedding, hidden).size;
    require(
      planned === plan.parameters,
      `the invitation plans for ${plan.parameters} parameters, but its catalogue needs ${planned}`,
    );
    this.surroundings = options.surroundings ?? watchPage();
    if (options.consent) void this.setConsent(true);
  }

  get consented(): boolean {
    return this.consent;
  }

  /**
   * Give consent, unless the browser signals a refusal; or withdraw it in all tabs and delete visits,
   * keys and model. Fails if the browser refuses to delete.
   */
  async setConsent(given: boolean): Promise<void> {
    this.consent = given && !this.refused();
    if (this.consent) {
      // Another tab that goes on would store visits again.
      this.tabs ??= new BroadcastChannel(this.database());
      this.tabs.onmessage = () => void this.leave().then((store) => store?.close());
      return;
    }
    const tabs = this.tabs ?? new BroadcastChannel(this.database());
    this.tabs = undefined;
    tabs.postMessage("withdrawn");
    tabs.close();
    const opened = await this.leave();
    const store = opened ?? (await DeviceStore.existing(this.database()));
    await store?.wipe();
    store?.close();
  }

  /** Store a category that the visitor looked at; without consent or outside the catalogue nothing. */
  async record(category: string): Promise<void> {
    if (!this.vocabulary.has(category)) return;
    await this.consenting(undefined, async () => (await this.opened()).record(category));
  }

  /** Return the stored categories of each visit, oldest first, for a page that shows them. */
  async visits(): Promise<string[][]> {
    return this.consenting([], async () => {
      const { visits } = await (await this.opened()).visits();
      return visits.map(({ categories }) => [...categories]);
    });
  }

  /** Install the bytes of a newer signed `model` of the run; throws a `DeviceError` to refuse it. */
  async install(modelPackage: Uint8Array): Promise<void> {
    require(this.consent, "the visitor does not consent");
    await (await this.intentOf()).install(modelPackage.slice());
  }

  /** Wait until the model is fitted to this visitor; predictions before are those of the shared one. */
  async personalised(): Promise<void> {
    if (this.consent) await (await this.intentOf()).personalised();
  }

  /** Return the likeliest next categories with their probabilities; empty without consent or model. */
  async predict(count = 5): Promise<Record<string, number>> {
    return this.consenting({}, async () => (await this.intentOf()).likely(count));
  }

  /** Return the `intent` of a request: some categories with weights in tenths of the likeliest. */
  async intent(count = 3): Promise<Record<string, number>> {
    return coarse(await this.predict(count));
  }

  /** Return the probability that one of some categories comes within the next steps, or days; not sent. */
  async aboutTo(categories: readonly string[], steps = 3, days?: number): Promise<number> {
    return this.consenting(0, async () => (await this.intentOf()).aboutTo(categories, steps, days));
  }

  /** Read the shop's file of triggers; throws a `DeviceError` unless all is in range. */
  readTriggers(json: string): TriggerFile {
    return readTriggers(json, (category) => this.vocabulary.has(category));
  }

  /**
   * Act on the triggers that fire now, and return their foresights, held-out ones too. Call it after
   * `record`, and now and then. A foresight is open until it came or its time is over.
   */
  async fire(triggers: readonly Trigger[], options?: FireOptions): Promise<Foresight[]> {
    return this.consenting([], async () => (await this.intentOf()).fire(triggers, options));
  }

  /** Allow a server to learn of foresights, by a level, or end it by `nothing`, as it is at first. */
  async allowTelling(level: Telling): Promise<void> {
    require(TELLING.includes(level), `telling is ${level}: give one of ${TELLING.join(", ")}`);
    require(this.consent, "the visitor does not consent");
    await (await this.intentOf()).allowTelling(level);
  }

  /** Take part in rounds until `stop`; one tab of the browser at a time does. */
  start(): void {
    if (!this.consent || this.working) return;
    const working = new AbortController();
    this.working = working;
    window.addEventListener("pagehide", this.hidden);
    const { locks } = navigator as { locks?: LockManager };
    const work = (): Promise<void> => this.work(working.signal);
    const { signal } = working;
    const run = locks ? locks.request(this.database(), { signal }, work) : work();
    run.catch((error: unknown) => {
      if (!signal.aborted) this.report(error);
      if (this.working === working) this.working = undefined;
    });
  }

  /** Take part in no more rounds; an open one ends for this device. */
  stop(): void {
    this.working?.abort();
    this.working = undefined;
  }

  private async work(signal: AbortSignal): Promise<void> {
    const { invitation, vocabulary, surroundings, options } = this;
    const { url, enrol, onStage, secondsPerDay = 20 } = options;
    const store = await this.opened();
    await takePart(
      {
        ...{ invitation, vocabulary, store, surroundings, url, secondsPerDay, random, onStage },
        enrol: typeof enrol === "string" ? (key, until) => enrolAt(enrol, key, until) : enrol,
        report: (error) => this.report(error),
      },
      signal,
    );
  }

  /** Leave rounds with the page: the browser may keep it for the way back, with its lock. */
  private readonly hidden = (): void => {
    if (!this.working) return;
    this.stop();
    window.addEventListener("pageshow", () => this.start(), { once: true });
  };

  /** Use nothing that is stored from now on; return the open database. */
  private async leave(): Promise<DeviceStore | undefined> {
    this.consent = false;
    this.stop();
    const opened = this.store;
    this.store = this.intents = undefined;
    return opened?.catch(() => undefined);
  }

  /** Return the result of work, or nothing without consent, also if it is withdrawn meanwhile. */
  private async consenting<T>(nothing: T, work: () => Promise<T>): Promise<T> {
    if (!this.consent) return nothing;
    try {
      return await work();
    } catch (error) {
      // A tab that was frozen has not been told that another one withdrew the consent.
      if (error instanceof DataDeleted) (await this.leave())?.close();
      if (!this.consent) return nothing;
      throw error;
    }
  }

  private refused(): boolean {
    if (this.options.honourSignals === false) return false;
    const signals = navigator as { globalPrivacyControl?: boolean; doNotTrack?: string | null };
    return signals.globalPrivacyControl === true || signals.doNotTrack === "1";
  }

  private intentOf(): Promise<PageIntent> {
    return (this.intents ??= this.createIntent());
  }

  private async createIntent(): Promise<PageIntent> {
    const store = await this.opened();
    const slot = new ModelSlot(store, this.invitation, this.vocabulary, await primitives());
    const pause = new Meter(this.surroundings).pause;
    return new PageIntent(store, slot, this.vocabulary, this.options.own ?? "head", random, pause);
  }

  private opened(): Promise<DeviceStore> {
    if (this.store) return this.store;
    const again = (): void => {
      if (this.store === opening) this.store = this.intents = undefined; // the next call tries again
    };
    const opening = DeviceStore.open(this.database(), { closed: again }).catch((error: unknown) => {
      again();
      throw error;
    });
    this.store = opening;
    return opening;
  }

  private database(): string {
    return this.options.database ?? "tactful-device";
  }

  private report(error: unknown): void {
    queueMicrotask(() => this.options.onError?.(error as Error));
  }
}
