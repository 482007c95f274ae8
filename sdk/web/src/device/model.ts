// The intent LSTM on one flat vector: probabilities, and the gradient of its loss.
//
// Layout, E = embedding, H = hidden, V = vocabulary, C = V - 3:
//
//   embedding [V, E] | input weights [4H, E] | recurrent weights [4H, H] | two biases [4H]
//   | output weights [C, H + E] | output bias [C]
//
// Gates are in the order input, forget, candidate, output. Sums are float64, stored as float32.

import { require } from "./errors.js";
import { BOUNDARY, FIRST_CATEGORY, PAD, type Windows } from "./tokens.js";

const CONTEXT_TOKENS = 256;

export type Floats = Float32Array<ArrayBuffer>;

/** Parts of a flat vector. */
export interface Layers {
  readonly table: Floats;
  readonly input: Floats;
  readonly recurrent: Floats;
  readonly bias1: Floats;
  readonly bias2: Floats;
  readonly out: Floats;
  readonly outBias: Floats;
}

/** Values after one token, kept for the way back. */
export interface Step {
  readonly token: number;
  readonly gates: Floats;
  readonly cell: Floats;
  readonly squashed: Floats;
  readonly state: Floats;
}

/** Widths of a model. */
export class Model {
  /** Number of parameters. */
  readonly size: number;

  constructor(
    readonly vocabulary: number,
    readonly embedding: number,
    readonly hidden: number,
  ) {
    this.size = this.lengths().reduce((total, length) => total + length, 0);
  }

  /** Return the probability of each token to come next; reserved ones have 0. */
  predict(weights: Floats, history: readonly number[], temperature = 1): Float64Array {
    const of = this.layers(weights);
    const likely = new Float64Array(this.vocabulary);
    likely.set(this.likely(of, this.read(of, history), temperature), FIRST_CATEGORY);
    return likely;
  }

  /** Return the probability of each category to come next, from the values after the last token. */
  likely(of: Layers, step: Step, temperature: number): Float64Array {
    return softmax(this.logits(of, step), temperature);
  }

  /** Position of the first weight of the output layer. */
  get head(): number {
    return this.lengths().slice(0, -2).reduce((total, length) => total + length, 0);
  }

  /** Return the mean of -log p(answer) over all questions, in nats; 0 without any. */
  loss(weights: Floats, { inputs, answers }: Windows, temperature = 1): number {
    const of = this.layers(weights);
    let total = 0;
    let count = 0;
    for (const [row, input] of inputs.entries()) {
      let step: Step | undefined;
      for (const [t, answer] of answers[row]!.entries()) {
        step = this.advance(of, input[t]!, step);
        if (answer === PAD) continue;
        total -= Math.log(softmax(this.logits(of, step), temperature)[answer - FIRST_CATEGORY]!);
        count++;
      }
    }
    return count ? total / count : 0;
  }

  /**
   * Add the gradient of one row to `gradient`: of the sum of -log p(answer), times `scale`.
   *
   * `PAD` is not asked, and its vector has no gradient.
   */
  addGradient(
    weights: Floats,
    inputs: Int32Array,
    answers: Int32Array,
    scale: number,
    gradient: Floats,
  ): void {
    const of = this.layers(weights);
    const to = this.layers(gradient);
    const steps: Step[] = [];
    let length = answers.length;
    while (length > 0 && answers[length - 1] === PAD) length--;
    for (let t = 0; t < length; t++) steps.push(this.advance(of, inputs[t]!, steps[t - 1]));
    let dState = new Float32Array(this.hidden);
    const dCell = new Float32Array(this.hidden);
    for (let t = length - 1; t >= 0; t--) {
      const step = steps[t]!;
      const dTable = this.embedded(to, step.token);
      if (answers[t] !== PAD) {
        this.addOutput(of, to, step, answers[t]! - FIRST_CATEGORY, scale, dState, dTable);
      }
      const dGates = this.gateGradient(step, steps[t - 1], dState, dCell);
      this.addGates(of, to, step, steps[t - 1], dGates, dTable);
      dState = this.back(of, dGates);
    }
    this.embedded(to, PAD).fill(0);
  }

  /** Return the values after a history. */
  read(of: Layers, history: readonly number[]): Step {
    let step: Step | undefined;
    for (const token of history.length ? history.slice(-CONTEXT_TOKENS) : [BOUNDARY]) {
      require(token >= 0 && token < this.vocabulary, "the history has an unknown token");
      step = this.advance(of, token, step);
    }
    return step!;
  }

  /** Return the values after one more token. */
  advance(of: Layers, token: number, before?: Step): Step {
    const { hidden, embedding } = this;
    const from = this.embedded(of, token);
    const gates = new Float32Array(4 * hidden);
    for (let g = 0; g < 4 * hidden; g++) {
      let sum = of.bias1[g]! + of.bias2[g]!;
      for (let e = 0, at = g * embedding; e < embedding; e++) sum += of.input[at + e]! * from[e]!;
      if (before) {
        const { state } = before;
        for (let h = 0, at = g * hidden; h < hidden; h++) sum += of.recurrent[at + h]! * state[h]!;
      }
      const candidate = g >= 2 * hidden && g < 3 * hidden;
      gates[g] = candidate ? Math.tanh(sum) : 0.5 * (1 + Math.tanh(0.5 * sum));
    }
    const cell = new Float32Array(hidden);
    const squashed = new Float32Array(hidden);
    const state = new Float32Array(hidden);
    for (let h = 0; h < hidden; h++) {
      const kept = gates[hidden + h]! * (before?.cell[h] ?? 0);
      cell[h] = kept + gates[h]! * gates[2 * hidden + h]!;
      squashed[h] = Math.tanh(cell[h]!);
      state[h] = gates[3 * hidden + h]! * squashed[h]!;
    }
    return { token, gates, cell, squashed, state };
  }

  private logits(of: Layers, { token, state }: Step): Float64Array {
    const from = this.embedded(of, token);
    const width = this.hidden + this.embedding;
    return Float64Array.from(of.outBias, (bias, c) => {
      let sum = bias;
      for (let h = 0, at = c * width; h < this.hidden; h++) sum += of.out[at + h]! * state[h]!;
      for (let e = 0, at = c * width + this.hidden; e < this.embedding; e++) {
        sum += of.out[at + e]! * from[e]!;
      }
      return sum;
    });
  }

  /** Add the gradient of the output layer, and of its inputs: state and embedding. */
  private addOutput(
    of: Layers,
    to: Layers,
    step: Step,
    truth: number,
    scale: number,
    dState: Floats,
    dTable: Floats,
  ): void {
    const { hidden, embedding } = this;
    const from = this.embedded(of, step.token);
    const error = softmax(this.logits(of, step), 1);
    error[truth]! -= 1; // softmax and log loss: p - truth
    for (let c = 0; c < error.length; c++) {
      const by = scale * error[c]!;
      const at = c * (hidden + embedding);
      to.outBias[c]! += by;
      for (let h = 0; h < hidden; h++) {
        to.out[at + h]! += by * step.state[h]!;
        dState[h]! += by * of.out[at + h]!;
      }
      for (let e = 0; e < embedding; e++) {
        to.out[at + hidden + e]! += by * from[e]!;
        dTable[e]! += by * of.out[at + hidden + e]!;
      }
    }
  }

  /** Return the gradient by the gates before their activation; `dCell` becomes that before. */
  private gateGradient(step: Step, before: Step | undefined, dState: Floats, dCell: Floats) {
    const { hidden } = this;
    const { gates, squashed } = step;
    const dGates = new Float32Array(4 * hidden);
    for (let h = 0; h < hidden; h++) {
      const input = gates[h]!;
      const forget = gates[hidden + h]!;
      const candidate = gates[2 * hidden + h]!;
      const output = gates[3 * hidden + h]!;
      dCell[h]! += dState[h]! * output * (1 - squashed[h]! ** 2);
      dGates[h] = dCell[h]! * candidate * input * (1 - input);
      dGates[hidden + h] = dCell[h]! * (before?.cell[h] ?? 0) * forget * (1 - forget);
      dGates[2 * hidden + h] = dCell[h]! * input * (1 - candidate ** 2);
      dGates[3 * hidden + h] = dState[h]! * squashed[h]! * output * (1 - output);
      dCell[h]! *= forget;
    }
    return dGates;
  }

  /** Add the gradient of the recurrent layer, and of the embedding. */
  private addGates(
    of: Layers,
    to: Layers,
    step: Step,
    before: Step | undefined,
    dGates: Floats,
    dTable: Floats,
  ): void {
    const { hidden, embedding } = this;
    const from = this.embedded(of, step.token);
    for (let g = 0; g < dGates.length; g++) {
      const by = dGates[g]!;
      to.bias1[g]! += by;
      to.bias2[g]! += by;
      for (let e = 0, at = g * embedding; e < embedding; e++) {
        to.input[at + e]! += by * from[e]!;
        dTable[e]! += by * of.input[at + e]!;
      }
      if (!before) continue;
      for (let h = 0, at = g * hidden; h < hidden; h++) to.recurrent[at + h]! += by * before.state[h]!;
    }
  }

  private back(of: Layers, dGates: Floats): Floats {
    const dState = new Float32Array(this.hidden);
    for (let g = 0; g < dGates.length; g++) {
      const at = g * this.hidden;
      for (let h = 0; h < this.hidden; h++) dState[h]! += dGates[g]! * of.recurrent[at + h]!;
    }
    return dState;
  }

  private embedded(of: Layers, token: number): Floats {
    return of.table.subarray(token * this.embedding, (token + 1) * this.embedding);
  }

  private lengths(): number[] {
    const { vocabulary, embedding, hidden } = this;
    const gates = 4 * hidden;
    const categories = vocabulary - FIRST_CATEGORY;
    const output = categories * (hidden + embedding);
    const inner = [gates * embedding, gates * hidden, gates, gates];
    return [vocabulary * embedding, ...inner, output, categories];
  }

  /** Return the parts of a flat vector. */
  layers(vector: Floats): Layers {
    require(vector.length === this.size, `the model has ${this.size} parameters`);
    let end = 0;
    const parts = this.lengths().map((length) => vector.subarray(end, (end += length)));
    const names = ["table", "input", "recurrent", "bias1", "bias2", "out", "outBias"];
    return Object.fromEntries(names.map((name, at) => [name, parts[at]])) as unknown as Layers;
  }
}

function softmax(logits: Float64Array, temperature: number): Float64Array {
  const largest = logits.reduce((most, logit) => Math.max(most, logit), -Infinity);
  const likely = logits.map((logit) => Math.exp((logit - largest) / temperature));
  const total = likely.reduce((sum, value) => sum + value, 0);
  return likely.map((value) => value / total);
}
