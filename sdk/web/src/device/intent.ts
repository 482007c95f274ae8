// Predicted intent of the visitor, and the part of it that a request may contain, as `DeviceIntent` in
// Python: the personal model predicts in the page, and predictions some steps ahead fire triggers.

import type { Bytes } from "./bytes.js";
import { repeatable } from "./draws.js";
import { require } from "./errors.js";
import type { Packaged } from "./package.js";
import { type Part, personalise, recent } from "./personalise.js";
import type { Random } from "./sharing.js";
import type { ModelSlot } from "./slot.js";
import type { DeviceStore } from "./store.js";
import { BOUNDARY, FIRST_CATEGORY, latest, type Vocabulary, windows } from "./tokens.js";
import type { Pause } from "./training.js";

const CONTINUATIONS = 1_000;
/** Nats a question by which a new model may be worse on a device. */
const WORSE = 0.1;

/** Fires if the visitor is likely to choose a category soon. */
export interface Trigger {
  /** Unique on the device. */
  readonly name: string;
  /** Categories, any of which counts. */
  readonly categories: readonly string[];
  /** Categories to look ahead; 3 if left out. */
  readonly steps?: number;
  /** Probability from which it fires; 0.5 if left out. */
  readonly threshold?: number;
  /** Probability below which it can fire again; 0.25 if left out. */
  readonly rearm?: number;
}

export class PageIntent {
  private personal: Packaged | undefined;
  private fittedTo = "";
  private fitting: Promise<void> | undefined;

  constructor(
    private readonly store: DeviceStore,
    private readonly slot: ModelSlot,
    private readonly vocabulary: Vocabulary,
    private readonly part: Part,
    private readonly random: Random,
    private readonly pause: Pause,
  ) {}

  /** Install a new signed model unless it is older, unfit, or worse on the visits of this visitor. */
  async install(data: Bytes): Promise<void> {
    const before = await this.slot.installed();
    const { visits } = await this.visits();
    const asked = windows(this.vocabulary.sequence(recent(visits)));
    const loss = ({ model, weights, temperature }: Packaged): number =>
      model.loss(weights, asked, temperature);
    await this.slot.install(data, (model) => !before || loss(model) <= loss(before) + WORSE);
  }

  /** Return the likeliest next categories with their probabilities; none without a model. */
  async likely(count: number): Promise<Record<string, number>> {
    const model = await this.model();
    if (!model) return {};
    const probabilities = model.model.predict(model.weights, await this.history(), model.temperature);
    return likeliest(probabilities, this.vocabulary, count);
  }

  /** Return the probability that one of some categories comes within the next steps; 0 without a model. */
  async aboutTo(categories: readonly string[], steps: number): Promise<number> {
    require(Number.isInteger(steps) && steps >= 1, `steps is ${steps}: give 1 or more`);
    const packaged = await this.model();
    if (!packaged) return 0;
    const { model, weights, temperature } = packaged;
    const tokens = new Set(categories.map((category) => this.vocabulary.token(category)));
    const settings = { steps, continuations: CONTINUATIONS, temperature };
    return model.likelyWithin(weights, await this.history(), tokens, settings, repeatable());
  }

  /** Return the names of the triggers that fire now; each fires once until rearmed. */
  async fire(triggers: readonly Trigger[]): Promise<string[]> {
    const before = new Set((await this.store.get("fired")) ?? []);
    const names = triggers.map(({ name }) => name);
    const now = [...before].filter((name) => !names.includes(name));
    const firing: string[] = [];
    for (const { name, categories, steps = 3, threshold = 0.5, rearm = 0.25 } of triggers) {
      const sound = 0 <= rearm && rearm <= threshold && threshold <= 1 && threshold > 0;
      require(sound, `the trigger ${name} needs 0 <= rearm <= threshold <= 1 and threshold > 0`);
      const likely = await this.aboutTo(categories, steps);
      const stays = before.has(name) && likely >= rearm;
      if (stays || likely >= threshold) now.push(name);
      if (!stays && likely >= threshold) firing.push(name);
    }
    await this.store.put("fired", now.sort());
    return firing;
  }

  /** Wait until the personal model is fitted. */
  async personalised(): Promise<void> {
    await this.model();
    await this.fitting;
  }

  /** Return the personal model, and the shared one until it is fitted for the first time. */
  private async model(): Promise<Packaged | undefined> {
    const shared = await this.slot.installed();
    if (!shared || this.part === "nothing") return shared;
    const { visits, open } = await this.visits();
    const past = open ? visits.slice(0, -1) : visits; // once a visit, not at each record
    const key = JSON.stringify([shared.version, past]);
    if (this.fittedTo !== key) {
      this.fittedTo = key;
      if (this.personal?.version !== shared.version) this.personal = undefined;
      const { vocabulary, part, random, pause } = this;
      this.fitting = personalise(shared, past, vocabulary, part, random, pause).then((model) => {
        if (this.fittedTo === key) this.personal = model;
      });
    }
    return this.personal ?? shared;
  }

  /** Return the tokens so far; they end with a boundary unless the visit goes on. */
  private async history(): Promise<number[]> {
    const { visits, open } = await this.visits();
    const tokens = this.vocabulary.sequence(latest(visits));
    return open ? tokens : [...tokens, BOUNDARY];
  }

  private async visits(): Promise<{ visits: string[][]; open: boolean }> {
    const visits = await this.store.visits();
    const known = visits.map(({ categories }) => categories.filter((name) => this.vocabulary.has(name)));
    return { visits: known, open: visits[visits.length - 1]?.open ?? false };
  }
}

/** Return the categories of the largest probabilities, in their order. */
export function likeliest(
  probabilities: Float64Array,
  vocabulary: Vocabulary,
  count: number,
): Record<string, number> {
  const likely = Array.from(probabilities, (p, token) => ({ p, token })).slice(FIRST_CATEGORY);
  const best = likely.sort((a, b) => b.p - a.p).slice(0, count);
  return Object.fromEntries(best.map(({ p, token }) => [vocabulary.category(token)!, p]));
}

/** Return weights in tenths of the likeliest; those that round to 0 are left out. */
export function coarse(likely: Record<string, number>): Record<string, number> {
  const most = Math.max(...Object.values(likely));
  const tenths = Object.entries(likely).map(([name, p]) => [name, Math.floor(10 * (p / most)) / 10] as const);
  return Object.fromEntries(tenths.filter(([, weight]) => weight > 0));
}
