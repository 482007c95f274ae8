// The browser as a device: history of the visitor, model, and private training. Consent comes first.

import type { Bytes } from "./bytes.js";
import { Connection, Outage, type Question } from "./connection.js";
import { require } from "./errors.js";
import { type Invitation, readInvitation } from "./invitation.js";
import { mayBegin, Meter, type Surroundings, watchPage } from "./limits.js";
import { decodeEnrolment, encodeEnrolment, type Enrolment, enrolmentText } from "./messages.js";
import { Model } from "./model.js";
import { openPackage } from "./package.js";
import { type Identity, type Primitives, primitives } from "./primitives.js";
import { Rounds } from "./rounds.js";
import { DeviceStore } from "./store.js";
import { FIRST_CATEGORY, latest, training, Vocabulary, windows } from "./tokens.js";
import { batches, type Settings, SETTINGS, train } from "./training.js";

export { DeviceError } from "./errors.js";
export { type Surroundings, watchPage } from "./limits.js";

const FIRST_WAIT_MS = 1_000;
const LONGEST_WAIT_MS = 60_000;
const CHECK_MS = 5_000;

export interface Options {
  /** Text of `invitation.json`, from the origin of the page or another one that you trust. */
  invitation: string;
  /** Address of the server that leads rounds; a path is one of the page's own server. */
  url: string;
  /** Return the encoded enrolment of a public key of 32 bytes, from the enrolling authority. */
  enrol: (identity: Uint8Array) => Promise<Uint8Array>;
  /** Whether the visitor has consented already, as your consent dialogue remembers it. */
  consent?: boolean;
  /** Whether Global Privacy Control and Do Not Track count as a refusal; true if left out. */
  honourSignals?: boolean;
  /** Seconds of computing on a UTC day where the browser does not know about a charger; 20. */
  secondsPerDay?: number;
  /** Name of the database; `tactful-device` if left out. */
  database?: string;
  /** State of the page and of the machine; those of the browser if left out. */
  surroundings?: Surroundings;
  /** Called with each refusal or outage in the background. */
  onError?: (error: Error) => void;
  /** Called after each answered stage, from 1 to 5. */
  onStage?: (stage: number) => void;
}

/** Device of the visitor in one run. */
export class PageDevice {
  readonly invitation: Invitation;
  private readonly vocabulary: Vocabulary;
  private readonly surroundings: Surroundings;
  private consent = false;
  private store: Promise<DeviceStore> | undefined;
  private working: AbortController | undefined;

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

  /** Give consent, unless the browser signals a refusal; or withdraw it and delete visits and keys. */
  async setConsent(given: boolean): Promise<void> {
    this.consent = given && !this.refused();
    if (this.consent) return;
    this.stop();
    const opened = this.store;
    this.store = undefined;
    const store = await (opened ?? DeviceStore.existing(this.database()));
    await store?.wipe();
    store?.close();
  }

  /** Store a category that the visitor looked at; without consent or outside the catalogue nothing. */
  async record(category: string): Promise<void> {
    if (!this.consent || !this.vocabulary.has(category)) return;
    await (await this.opened()).record(category);
  }

  /** Return the likeliest next categories of a signed model with their probabilities. */
  async predict(modelPackage: Uint8Array, count = 5): Promise<Record<string, number>> {
    require(this.consent, "the visitor does not consent");
    const by = await primitives();
    const { signer } = this.invitation;
    const packaged = await openPackage(modelPackage.slice(), signer, this.vocabulary, by);
    const { model, weights, temperature } = packaged;
    const tokens = this.vocabulary.sequence(latest(await this.visits()));
    const likely = Array.from(model.predict(weights, tokens, temperature), (p, token) => ({ p, token }));
    const best = likely.slice(FIRST_CATEGORY).sort((a, b) => b.p - a.p).slice(0, count);
    return Object.fromEntries(best.map(({ p, token }) => [this.vocabulary.category(token)!, p]));
  }

  /** Take part in rounds until `stop`; one tab of the browser at a time does. */
  start(): void {
    if (!this.consent || this.working) return;
    const working = new AbortController();
    this.working = working;
    const { locks } = navigator as { locks?: LockManager };
    const name = this.database();
    const work = (): Promise<void> => this.work(working.signal);
    const run = locks ? locks.request(name, { signal: working.signal }, work) : work();
    run.catch((error: unknown) => {
      if (!working.signal.aborted) this.report(error);
      if (this.working === working) this.working = undefined;
    });
  }

  /** Take part in no more rounds; an open one ends for this device. */
  stop(): void {
    this.working?.abort();
    this.working = undefined;
  }

  private async work(signal: AbortSignal): Promise<void> {
    const by = await primitives();
    const store = await this.opened();
    const identity = await by.identity(await secret(store));
    const enrolment = await this.enrolment(store, identity, by);
    const connection = new Connection(this.options.url.replace(/\/+$/, ""), enrolment, identity);
    const meter = { current: new Meter(this.surroundings) };
    const rounds = this.rounds(store, enrolment, identity, by, meter);
    let wait = FIRST_WAIT_MS;
    let open = false; // a session waits for further questions
    let last: { ticket: string; answer: Bytes } | undefined;
    while (!signal.aborted) {
      try {
        if (!open && !(await this.mayBegin(store))) {
          await sleep(CHECK_MS, signal);
          continue;
        }
        const question = await connection.poll(signal);
        wait = FIRST_WAIT_MS;
        if (!question) {
          open = false;
          continue;
        }
        const ticket = question.ticket.join();
        if (last?.ticket !== ticket) {
          meter.current = new Meter(this.surroundings);
          const answer = await this.answered(rounds, question);
          last = { ticket, answer };
          open = answer.length > 0 && question.stage < 5;
          await store.spend(meter.current.total());
        }
        // A question that comes again was answered, and its answer was lost.
        await connection.answer(question.ticket, last.answer, signal);
        if (last.answer.length > 0) this.options.onStage?.(question.stage);
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof Outage)) throw error;
        this.report(error);
        await sleep(wait, signal);
        wait = Math.min(2 * wait, LONGEST_WAIT_MS);
      }
    }
  }

  /** Return the answer to a question; empty if this device refuses it. */
  private async answered(rounds: Rounds, question: Question): Promise<Bytes> {
    try {
      require(this.consent, "the visitor does not consent");
      return await rounds.answer(question.stage, question.data, question.weights);
    } catch (error) {
      this.report(error);
      return new Uint8Array();
    }
  }

  private rounds(
    store: DeviceStore,
    enrolment: Enrolment,
    identity: Identity,
    by: Primitives,
    meter: { current: Meter },
  ): Rounds {
    const { invitation } = this;
    const { embedding, hidden, plan } = invitation;
    const settings: Settings = {
      ...SETTINGS,
      learningRate: invitation.learningRate,
      batchSize: invitation.batchSize,
      proximal: invitation.proximal,
      updateNorm: plan.updateNorm,
    };
    const model = new Model(this.vocabulary.size, embedding, hidden);
    const member = {
      enrolment,
      identity,
      authority: invitation.authority,
      fewest: invitation.fewest,
      random,
      primitives: by,
    };
    return new Rounds(invitation, member, store, async (weights) => {
      const visits = latest(await this.visits());
      const past = this.vocabulary.sequence(training(visits, settings.heldOut));
      const asked = windows(past, settings);
      const steps = batches(asked, settings, random);
      return train(model, weights, asked, steps, settings, () => meter.current.pause());
    });
  }

  private async visits(): Promise<string[][]> {
    const visits = await (await this.opened()).visits();
    return visits.map((visit) => visit.filter((category) => this.vocabulary.has(category)));
  }

  private async enrolment(store: DeviceStore, identity: Identity, by: Primitives) {
    const stored = await store.get("enrolment");
    const data = stored ?? (await this.options.enrol(identity.publicKey)).slice();
    const enrolment = decodeEnrolment(data);
    const text = enrolmentText(enrolment.device, identity.publicKey);
    require(
      await by.verify(this.invitation.authority, enrolment.certificate, text),
      "the enrolment is not for this device, or of another authority than the invitation's",
    );
    if (!stored) await store.put("enrolment", encodeEnrolment(enrolment));
    return enrolment;
  }

  private async mayBegin(store: DeviceStore): Promise<boolean> {
    return mayBegin(
      this.surroundings,
      await store.spentToday(),
      this.options.secondsPerDay ?? 20,
    );
  }

  private refused(): boolean {
    if (this.options.honourSignals === false) return false;
    const signals = navigator as { globalPrivacyControl?: boolean; doNotTrack?: string | null };
    return signals.globalPrivacyControl === true || signals.doNotTrack === "1";
  }

  private opened(): Promise<DeviceStore> {
    return (this.store ??= DeviceStore.open(this.database()));
  }

  private database(): string {
    return this.options.database ?? "tactful-device";
  }

  private report(error: unknown): void {
    queueMicrotask(() => this.options.onError?.(error as Error));
  }
}

async function secret(store: DeviceStore): Promise<Bytes> {
  const known = await store.get("identity");
  if (known) return known;
  const drawn = random(32);
  await store.put("identity", drawn);
  return drawn;
}

function random(length: number): Bytes {
  return crypto.getRandomValues(new Uint8Array(length));
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener("abort", end);
  });
}
