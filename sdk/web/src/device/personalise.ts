// Personal model on a device: fine-tuning and calibration on its visits, as `personalise` in Python.

import type { Floats } from "./model.js";
import type { Packaged } from "./package.js";
import type { Random } from "./sharing.js";
import { training, type Vocabulary, windows } from "./tokens.js";
import { batches, countQuestions, descend, type Pause, SETTINGS, type Settings } from "./training.js";

/** Layers to fine-tune: the output layer, all, or none. */
export type Part = "head" | "all" | "nothing";

export const PERSONAL: Settings = { ...SETTINGS, epochs: 8, learningRate: 0.5, heldOut: 0.25 };

const MOST_VISITS = 500;
const FEWEST_TO_CALIBRATE = 50;

/** Latest visits, which bound time and memory. */
export function recent<T>(visits: readonly T[]): T[] {
  return visits.slice(-MOST_VISITS);
}

/**
 * Fine-tune a model on visits, oldest first; returns the weights and the temperature.
 *
 * The latest visits are held out. The weights with the lowest loss on them are chosen among the
 * epochs and the shared weights; with 50 questions or more the temperature is fitted to the same
 * visits. The result shows as much about the visitor as the visits: keep it in memory.
 */
export async function personalise(
  shared: Packaged,
  visits: readonly (readonly string[])[],
  vocabulary: Vocabulary,
  part: "head" | "all",
  random: Random,
  pause: Pause = async () => {},
): Promise<Packaged> {
  const { model } = shared;
  const sequence = vocabulary.sequence(recent(visits));
  const past = vocabulary.sequence(training(recent(visits), PERSONAL.heldOut));
  const heldOut = windows(sequence, { ...PERSONAL, start: past.length });
  if (!countQuestions(heldOut)) return shared;
  const asked = windows(past, PERSONAL);
  let best = shared;
  let least = model.loss(shared.weights, heldOut, shared.temperature);
  const first = part === "head" ? model.head : 0;
  let weights: Floats = shared.weights;
  for (let epoch = 0; epoch < PERSONAL.epochs; epoch++) {
    const steps = batches(asked, { ...PERSONAL, epochs: 1 }, random);
    weights = await descend(model, weights, asked, steps, PERSONAL, { first, pause });
    if (!weights.every(Number.isFinite)) break;
    const loss = model.loss(weights, heldOut, shared.temperature);
    if (loss < least) [best, least] = [{ ...shared, weights }, loss];
  }
  if (countQuestions(heldOut) < FEWEST_TO_CALIBRATE) return best;
  const temperature = fitTemperature((tried) => model.loss(best.weights, heldOut, tried));
  return model.loss(best.weights, heldOut, temperature) < least ? { ...best, temperature } : best;
}

/** Return the temperature between 0.2 and 5 of the least loss, by golden section. */
export function fitTemperature(loss: (temperature: number) => number): number {
  const golden = (Math.sqrt(5) - 1) / 2;
  let [low, high] = [Math.log(0.2), Math.log(5)];
  for (let step = 0; step < 60; step++) {
    const left = high - golden * (high - low);
    const right = low + golden * (high - low);
    if (loss(Math.exp(left)) < loss(Math.exp(right))) high = right;
    else low = left;
  }
  return Math.exp((low + high) / 2);
}
