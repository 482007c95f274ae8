// Training of a device: plain SGD, an update of bounded norm, and its whole numbers.

import type { Bytes } from "./bytes.js";
import { require } from "./errors.js";
import type { Floats, Model } from "./model.js";
import { PAD, type Windows } from "./tokens.js";

/** Settings of training; the defaults of `TrainerSettings` in Python. */
export interface Settings {
  readonly epochs: number;
  readonly batchSize: number;
  readonly learningRate: number;
  /** Euclidean norm to which the gradient of each step is clipped. */
  readonly gradientNorm: number;
  /** Euclidean norm to which the update is clipped before it is sent. */
  readonly updateNorm: number;
  /** Penalty on the distance from the weights sent; 0 is FedAvg. */
  readonly proximal: number;
  readonly scored: number;
  readonly context: number;
  /** Share of the latest visits held out from training. */
  readonly heldOut: number;
}

export const SETTINGS: Settings = {
  epochs: 1,
  batchSize: 16,
  learningRate: 3,
  gradientNorm: 5,
  updateNorm: 2,
  proximal: 0,
  scored: 24,
  context: 8,
  heldOut: 0.2,
};

/** Is called between two pieces of work; it may wait, or throw to end the work. */
export type Pause = () => Promise<void>;

/** Return the rows of each step of a training, in random order; steps without question are left out. */
export function batches(
  asked: Windows,
  settings: Settings,
  random: (length: number) => Bytes,
): number[][] {
  const steps: number[][] = [];
  for (let epoch = 0; epoch < settings.epochs; epoch++) {
    const order = asked.inputs.map((_, row) => row);
    for (let last = order.length - 1; last > 0; last--) {
      const draw = new DataView(random(4).buffer).getUint32(0);
      const other = draw % (last + 1); // the bias is below 2^-17, and the order is no secret
      [order[last], order[other]] = [order[other]!, order[last]!];
    }
    for (let first = 0; first < order.length; first += settings.batchSize) {
      steps.push(order.slice(first, first + settings.batchSize));
    }
  }
  return steps.filter((rows) => countQuestions(asked, rows) > 0);
}

/** Train from weights on the rows of each step and return the clipped change. */
export async function train(
  model: Model,
  weights: Floats,
  asked: Windows,
  steps: readonly number[][],
  settings: Settings,
  pause?: Pause,
): Promise<Floats> {
  const trained = await descend(model, weights, asked, steps, settings, { pause });
  return clipToNorm(
    trained.map((value, i) => value - weights[i]!),
    settings.updateNorm,
  );
}

/** Return the weights after the steps; those before position `first` stay as they are. */
export async function descend(
  model: Model,
  weights: Floats,
  asked: Windows,
  steps: readonly number[][],
  settings: Settings,
  { first = 0, pause }: { first?: number; pause?: Pause | undefined } = {},
): Promise<Floats> {
  const current = weights.slice();
  for (const rows of steps) {
    const gradient = new Float32Array(model.size);
    const scale = 1 / countQuestions(asked, rows);
    for (const row of rows) {
      model.addGradient(current, asked.inputs[row]!, asked.answers[row]!, scale, gradient);
      await pause?.();
    }
    if (settings.proximal) {
      for (let i = 0; i < current.length; i++) {
        gradient[i]! += settings.proximal * (current[i]! - weights[i]!);
      }
    }
    gradient.fill(0, 0, first);
    const shrunk = Math.min(1, settings.gradientNorm / Math.max(norm(gradient), 1e-12));
    for (let i = 0; i < current.length; i++) {
      current[i]! -= settings.learningRate * shrunk * gradient[i]!;
    }
  }
  return current;
}

/** Return a vector scaled to a norm of at most `most`, as float32; throws if it is not finite. */
export function clipToNorm(vector: Floats, most: number): Floats {
  const length = norm(vector);
  require(Number.isFinite(length), "the update holds a value that is not finite");
  if (length <= most) return vector;
  // Rounding to float32 may lengthen the vector again: retry with the next smaller target.
  for (let target = most; ; target = below(target)) {
    const factor = target / length;
    const clipped = vector.map((value) => value * factor);
    if (norm(clipped) <= most) return clipped;
  }
}

/** Clip an update and cut it to whole numbers; `units` stands for the norm `most`. */
export function toGrid(update: Floats, most: number, units: number): Int32Array {
  let scaled = Float64Array.from(clipToNorm(update, most), (value) => value * (units / most));
  // float64 may exceed the bound by rounding before it truncates: shrink until it holds.
  for (;;) {
    const whole = Int32Array.from(scaled, Math.trunc);
    const squares = whole.reduce((sum, value) => sum + value * value, 0);
    if (squares <= units * units) return whole;
    scaled = scaled.map((value) => value * (1 - 1e-12));
  }
}

/** Return the number of scored positions of some rows; of all, if left out. */
export function countQuestions(asked: Windows, rows?: readonly number[]): number {
  const answers = rows ? rows.map((row) => asked.answers[row]!) : asked.answers;
  return answers.reduce((sum, row) => sum + row.filter((answer) => answer !== PAD).length, 0);
}

function norm(vector: Floats): number {
  return Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0));
}

/** Return the largest float32 below a positive number. */
function below(value: number): number {
  const single = Float32Array.of(value);
  new Int32Array(single.buffer)[0]! -= 1;
  return single[0]!;
}
