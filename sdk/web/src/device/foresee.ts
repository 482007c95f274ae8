// Probability that a category comes within some steps or days, from the visits of a visitor.

import { likelyWithin } from "./ahead.js";
import { repeatable } from "./draws.js";
import { DAY_S, MOST_STEPS, stepsWithin } from "./pace.js";
import type { Packaged } from "./package.js";
import type { StoredVisit } from "./store.js";
import { BOUNDARY, FIRST_CATEGORY, OTHER, type Vocabulary } from "./tokens.js";
import type { Pause } from "./training.js";
import { type Calibration, type Likely, type Sound } from "./triggers.js";

const CONTINUATIONS = 400;
const MOST_VISITS = 300; // more than the tokens that a model reads

/** Visits of a device; `open` says that the latest one goes on. */
export interface Past {
  readonly visits: readonly StoredVisit[];
  readonly open: boolean;
}

/** Return the calibrated probability of each trigger, and its likeliest category. */
export async function foresee(
  packaged: Packaged,
  vocabulary: Vocabulary,
  { visits, open }: Past,
  triggers: readonly Sound[],
  now: number,
  pause?: Pause,
): Promise<Likely[]> {
  if (!triggers.length) return [];
  const sets = triggers.map(({ categories }) =>
    categories.map((name) => vocabulary.token(name)).filter((token) => token !== OTHER),
  );
  const alone = [...new Set(sets.flat())];
  const sequence = vocabulary.sequence(visits.slice(-MOST_VISITS).map((each) => each.categories));
  const count = sequence.filter((token) => token >= FIRST_CATEGORY).length;
  const bySteps = await likelyWithin(
    packaged,
    open ? sequence : [...sequence, BOUNDARY], // a visit that goes on is continued
    [...sets, ...alone.map((token) => [token])].map((tokens) => new Set(tokens)),
    {
      steps: Math.max(...triggers.map(({ steps, days }) => (days === null ? steps : MOST_STEPS))),
      continuations: CONTINUATIONS,
      ends: count ? Math.min(1, (sequence.length - count) / count) : 0,
    },
    repeatable(), // equal visits give equal results
    pause,
  );
  return triggers.map((trigger, at) => {
    const tokens = sets[at]!;
    const ahead = (column: number): number => within(trigger, bySteps, column, visits, now);
    const whole = ahead(at);
    const each = tokens.map((token) => ahead(sets.length + alone.indexOf(token)));
    const best = tokens[each.indexOf(Math.max(...each))];
    return {
      probability: trigger.calibration ? calibrated(trigger.calibration, whole) : whole,
      category: (best === undefined ? undefined : vocabulary.category(best)) ?? trigger.categories[0]!,
    };
  });
}

/** Return the probability at the end of the look-ahead, from those by step. */
function within(
  { steps, days, pace }: Sound,
  bySteps: readonly number[][],
  column: number,
  visits: readonly StoredVisit[],
  now: number,
): number {
  if (days === null) return bySteps[steps - 1]![column]!;
  const shares = stepsWithin(visits, now, days * DAY_S, pace).slice(1);
  const sum = shares.reduce((total, share, at) => total + share * bySteps[at]![column]!, 0);
  return Math.min(1, Math.max(0, sum));
}

/** Return a calibrated probability, by lines between the knots and constant beyond them. */
export function calibrated({ raw, calibrated: to }: Calibration, probability: number): number {
  const above = raw.findIndex((knot) => knot > probability);
  if (above < 0) return to[to.length - 1]!;
  if (above === 0) return to[0]!;
  const [left, right] = [raw[above - 1]!, raw[above]!];
  const slope = (to[above]! - to[above - 1]!) / (right - left);
  return to[above - 1]! + slope * (probability - left);
}
