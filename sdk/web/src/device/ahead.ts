// Probability that a token comes within the next steps, by continuations that the model draws.

import type { Packaged } from "./package.js";
import { BOUNDARY, FIRST_CATEGORY } from "./tokens.js";
import type { Pause } from "./training.js";

/** Settings of a look-ahead. */
export interface Ahead {
  /** Number of categories, without boundaries. */
  readonly steps: number;
  /** Number of draws. */
  readonly continuations: number;
  /** Probability that a visit ends after a category, which the model does not predict. */
  readonly ends: number;
}

/** Past of some continuations: equal draws have equal pasts, and each is computed once. */
interface Past<State> {
  readonly state: State;
  readonly next: Map<number, Past<State>>;
  likely?: Next;
}

/** Next step after some past. */
interface Next {
  /** Probability of each target. */
  readonly wanted: readonly number[];
  /** Running sums of the probabilities of all categories. */
  readonly sums: Float64Array;
}

/**
 * Return the probability that a target comes within 1, 2, … steps, `[steps][targets]`.
 *
 * The chance at a step is the mean of the model's probabilities after the drawn continuations that
 * have missed so far, so the first step is exact; the standard error of the others is at most
 * 0.5 / sqrt(continuations). The draws are those of `likely_within` in Python.
 */
export async function likelyWithin(
  { model, weights, temperature }: Packaged,
  history: readonly number[],
  targets: readonly ReadonlySet<number>[],
  { steps, continuations, ends }: Ahead,
  random: () => number,
  pause?: Pause,
): Promise<number[][]> {
  const of = model.layers(weights);
  type State = ReturnType<typeof model.read>;
  const after = (past: Past<State>, token: number): Past<State> => {
    const known = past.next.get(token);
    if (known) return known;
    const drawn = { state: model.advance(of, token, past.state), next: new Map() };
    past.next.set(token, drawn);
    return drawn;
  };
  const nextOf = (past: Past<State>): Next =>
    (past.likely ??= split(model.likely(of, past.state, temperature), targets));
  const begin: Past<State> = { state: model.read(of, history), next: new Map() };
  const pasts = Array.from({ length: continuations }, () => begin);
  const missed = targets.map(() => Array.from({ length: continuations }, () => true));
  const survival = targets.map(() => 1);
  const bySteps: number[][] = [];
  for (let step = 0; step < steps; step++) {
    if (step && ends) {
      const over = pasts.map(() => random() < ends);
      for (const [at, past] of pasts.entries()) if (over[at]) pasts[at] = after(past, BOUNDARY);
    }
    const chance = targets.map(() => 0);
    const count = targets.map(() => 0);
    for (const [at, past] of pasts.entries()) {
      const { wanted, sums } = nextOf(past);
      for (const [target, misses] of missed.entries()) {
        if (!misses[at]) continue;
        chance[target]! += wanted[target]!;
        count[target]!++;
      }
      await pause?.();
      if (step + 1 === steps) continue;
      const drawn = random() * sums[sums.length - 1]!;
      const category = Math.min(sums.filter((sum) => sum <= drawn).length, sums.length - 1);
      const token = category + FIRST_CATEGORY;
      for (const [target, tokens] of targets.entries()) {
        if (tokens.has(token)) missed[target]![at] = false;
      }
      pasts[at] = after(past, token);
    }
    for (const target of targets.keys()) {
      const share = chance[target]! / Math.max(1, count[target]!);
      survival[target]! *= Math.min(1, Math.max(0, 1 - share));
    }
    bySteps.push(survival.map((left) => 1 - left));
  }
  return bySteps;
}

function split(likely: Float64Array, targets: readonly ReadonlySet<number>[]): Next {
  const wanted = targets.map((tokens) => {
    let sum = 0;
    for (const token of tokens) sum += likely[token - FIRST_CATEGORY] ?? 0;
    return sum;
  });
  let total = 0;
  return { wanted, sums: likely.map((value) => (total += value)) };
}
