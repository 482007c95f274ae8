// Predicted intent of the visitor, and the part of it that a request may contain, as `DeviceIntent` in
// Python: the personal model predicts in the page, and predictions some steps ahead fire triggers.

import { type Bytes, hex } from "./bytes.js";
import { foresee } from "./foresee.js";
import type { Packaged } from "./package.js";
import { type Part, personalise, recent } from "./personalise.js";
import type { Random } from "./sharing.js";
import type { ModelSlot } from "./slot.js";
import type { DeviceStore, StoredVisit } from "./store.js";
import { BOUNDARY, FIRST_CATEGORY, latest, type Vocabulary, windows } from "./tokens.js";
import type { Pause } from "./training.js";
import {
  type AboutTo,
  aboutToEvent,
  decide,
  type Foresight,
  foresightOf,
  holdsOut,
  momentOf,
  NOTHING_FIRED,
  sound,
  soundAll,
  soundLimits,
  type Telling,
  type Trigger,
  type TriggerLimits,
} from "./triggers.js";

/** Nats a question by which a new model may be worse on a device. */
const WORSE = 0.1;
/** Largest number of foresights that wait for a server; the oldest are dropped. */
const MOST_UNTOLD = 100;

/** What a page does with the foresights that fire. */
export interface FireOptions {
  /** Takes the action of a foresight that is not held out. */
  readonly act?: (foresight: Foresight) => void;
  /**
   * Sends an event, for example by `track` of the client, and returns whether it was taken; it is only
   * called as far as the visitor allowed it by `allowTelling`.
   */
  readonly tell?: (event: AboutTo) => boolean | Promise<boolean>;
  /** Id of the visitor on the server, for the holdout; without one it is drawn by the device. */
  readonly userId?: string;
  /** Limits on actions that the visitor notices. */
  readonly limits?: TriggerLimits;
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
    const asked = windows(this.vocabulary.sequence(recent(categoriesOf(visits))));
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

  /**
   * Return the probability that one of some categories comes within the next steps, or days; 0 without
   * a model, and by time without known times.
   */
  async aboutTo(categories: readonly string[], steps: number, days?: number): Promise<number> {
    const trigger = sound({ name: "aboutTo", categories, steps, days: days ?? null });
    const packaged = await this.model();
    if (!packaged) return 0;
    const { vocabulary, pause } = this;
    const past = await this.visits();
    const [likely] = await foresee(packaged, vocabulary, past, [trigger], Date.now() / 1000, pause);
    return likely!.probability;
  }

  /**
   * Act on the triggers that fire now, and tell a server as far as the visitor allowed it.
   *
   * Firings are saved first, in one transaction of all tabs: after the end of the page an action may
   * be missing, but is never taken twice. Returns the foresights, held-out ones too.
   */
  async fire(
    triggers: readonly Trigger[],
    { act, tell, userId, limits = {} }: FireOptions = {},
  ): Promise<Foresight[]> {
    const all = soundAll(triggers);
    const kept = soundLimits(limits);
    const packaged = await this.model();
    if (!packaged) return [];
    const past = await this.visits();
    const moment = momentOf(Date.now(), past.visits);
    const { vocabulary, pause, store } = this;
    const likely = await foresee(packaged, vocabulary, past, all, moment.now, pause);
    const unit = userId ?? (await this.secret());
    const telling = await this.telling();
    const fired: Foresight[] = [];
    await store.update("fired", (before) => {
      let state = { ...NOTHING_FIRED, ...before };
      for (const [at, trigger] of all.entries()) {
        const [next, fires] = decide(state, trigger, likely[at]!, moment, kept);
        state = next;
        if (!fires) continue;
        const [id, held] = [hex(this.random(8)), holdsOut(trigger, unit)];
        fired.push(foresightOf(trigger, likely[at]!, moment.now, id, held));
      }
      const untold = tell ? [...state.untold, ...fired] : state.untold;
      return { ...state, untold: telling === "nothing" ? [] : untold.slice(-MOST_UNTOLD) };
    });
    for (const foresight of fired) if (!foresight.held_out) act?.(foresight);
    if (tell) await this.tell(tell);
    return fired;
  }

  /** Store the consent to tell a server of foresights. */
  async allowTelling(level: Telling): Promise<void> {
    await this.store.put("telling", level);
  }

  /** Send the events that wait, oldest first; the next call tries again after a failure. */
  private async tell(send: NonNullable<FireOptions["tell"]>): Promise<void> {
    for (const foresight of (await this.store.get("fired"))?.untold ?? []) {
      const event = aboutToEvent(foresight, await this.telling());
      if (event && !(await send(event))) return;
      await this.store.update("fired", (before) => {
        const state = { ...NOTHING_FIRED, ...before };
        return { ...state, untold: state.untold.filter(({ id }) => id !== foresight.id) };
      });
    }
  }

  private async telling(): Promise<Telling> {
    return (await this.store.get("telling")) ?? "nothing";
  }

  /** Return random digits that stay the same until the consent is withdrawn. */
  private async secret(): Promise<string> {
    const drawn = this.random(32);
    return hex(await this.store.update("secret", (known) => known ?? drawn));
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
    const known = categoriesOf(visits);
    const past = open ? known.slice(0, -1) : known; // once a visit, not at each record
    const key = JSON.stringify([shared.version, past]);
    if (this.fittedTo !== key) {
      this.fittedTo = key;
      if (this.personal?.version !== shared.version) this.personal = undefined;
      const { vocabulary, part, random, pause } = this;
      this.fitting = personalise(shared, past, vocabulary, part, random, pause).then(
        (model) => {
          if (this.fittedTo === key) this.personal = model;
        },
        () => {}, // the shared model stays
      );
    }
    return this.personal ?? shared;
  }

  /** Return the tokens so far; they end with a boundary unless the visit goes on. */
  private async history(): Promise<number[]> {
    const { visits, open } = await this.visits();
    const tokens = this.vocabulary.sequence(latest(categoriesOf(visits)));
    return open ? tokens : [...tokens, BOUNDARY];
  }

  private async visits(): Promise<{ visits: StoredVisit[]; open: boolean }> {
    const { visits, open } = await this.store.visits();
    const known = visits.map((visit) => ({
      ...visit,
      categories: visit.categories.filter((name) => this.vocabulary.has(name)),
    }));
    return { visits: known, open };
  }
}

function categoriesOf(visits: readonly StoredVisit[]): (readonly string[])[] {
  return visits.map(({ categories }) => categories);
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
