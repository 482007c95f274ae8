// Discrete Gaussian noise of the tier noise-in-sum, draw by draw as `WideGaussian` in Python.
//
// Tables hold integer weights, computed by rational arithmetic; no float decides a probability. The
// proofs are in `tactful_privacy/mechanisms/gaussian.py`.

import { require } from "./errors.js";
import type { Random } from "./sharing.js";

/** A positive rational number. */
type Fraction = readonly [numerator: bigint, denominator: bigint];

const BITS = 256n;
const GUARD = BITS + 128n;
const ONE = 1n << BITS;
const MASS = (1n << 64n) - (1n << 48n);
const FARTHEST_EXPONENT = 50n;
const STEP = 16n;
const FINE = (4n * STEP) ** 2n;
const TABLE_LIMIT = (8n * STEP) ** 2n;

/** Source of draws with P(Z = k) proportional to e^(-k^2 / (2 sigma^2)). */
export class WideGaussian {
  private readonly top: Table;
  private readonly fine: Table | undefined;
  private readonly levels: number;

  /** Build the tables of a variance above 48. */
  constructor(sigmaSquared: bigint, random: Random) {
    require(sigmaSquared > 48n && sigmaSquared <= 10n ** 30n, "the noise is out of range");
    // Variances add up: sigma^2 = 16^2 * top + fine at each level, until top fits a table.
    let top: Fraction = [sigmaSquared, 1n];
    let levels = 0;
    for (; top[0] > TABLE_LIMIT * top[1]; levels++) {
      top = [top[0] - FINE * top[1], top[1] * STEP ** 2n];
    }
    this.levels = levels;
    this.top = new Table(weights(top), random);
    this.fine = levels ? new Table(weights([FINE, 1n]), random) : undefined;
  }

  /** Return fresh independent draws; whole numbers below 2^53. */
  sample(count: number): Float64Array {
    let draws = this.top.sample(count);
    for (let level = 0; level < this.levels; level++) {
      const fine = this.fine!.sample(count);
      draws = draws.map((draw, at) => draw * Number(STEP) + fine[at]!);
    }
    return draws;
  }
}

/** Distribution on -n..n by integer weights of 0..n. */
class Table {
  private readonly cumulative: BigUint64Array;
  private readonly lowest: number;

  constructor(
    side: readonly bigint[],
    private readonly random: Random,
  ) {
    const all = [...side.slice(1).reverse(), ...side];
    this.lowest = 1 - side.length;
    let total = 0n;
    this.cumulative = BigUint64Array.from(all, (weight) => (total += weight));
  }

  /** The first 16 bits of a draw usually decide; draws beyond the sum of the weights are repeated. */
  sample(count: number): Float64Array {
    const draws = new Float64Array(count);
    const prefixes = little(this.random(2 * count));
    const undecided: number[] = [];
    for (let at = 0; at < count; at++) {
      const first = BigInt(prefixes.getUint16(2 * at, true)) << 48n;
      const low = this.index(first);
      if (low < this.cumulative.length && low === this.index(first | ((1n << 48n) - 1n))) {
        draws[at] = low + this.lowest;
      } else undecided.push(at);
    }
    if (!undecided.length) return draws;
    const rest = little(this.random(8 * undecided.length));
    const again: number[] = [];
    for (const [i, at] of undecided.entries()) {
      const prefix = BigInt(prefixes.getUint16(2 * at, true)) << 48n;
      const index = this.index(prefix | (rest.getBigUint64(8 * i, true) >> 16n));
      draws[at] = index + this.lowest;
      if (index === this.cumulative.length) again.push(at);
    }
    if (again.length) {
      const repeated = this.sample(again.length);
      for (const [i, at] of again.entries()) draws[at] = repeated[i]!;
    }
    return draws;
  }

  /** Return the number of cumulative weights up to a draw. */
  private index(draw: bigint): number {
    let low = 0;
    let high = this.cumulative.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.cumulative[middle]! <= draw) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** Return the weights of 0, 1, ..., each at most its ideal share of `MASS`. */
function weights([n, d]: Fraction): bigint[] {
  let [stepLow, stepHigh] = falling([d, 2n * n]);
  const [bendLow, bendHigh] = falling([d, n]);
  let low = ONE;
  let high = ONE;
  const lows = [ONE];
  let total = ONE;
  const last = root(ceil(2n * FARTHEST_EXPONENT * n, d)) + 1n;
  for (let k = 0n; k < last; k++) {
    low = (low * stepLow) >> BITS;
    high = up(high * stepHigh);
    stepLow = (stepLow * bendLow) >> BITS;
    stepHigh = up(stepHigh * bendHigh);
    lows.push(low);
    total += 2n * high;
  }
  total += 2n * ceil(high * stepHigh, ONE - stepHigh);
  return lows.map((value) => (MASS * value) / total).filter((weight) => weight > 0n);
}

/** Return bounds of e^-x, times 2^BITS. */
function falling(x: Fraction): [bigint, bigint] {
  const [lower, upper] = expBounds(x);
  return [(ONE << BITS) / upper, ceil(ONE << BITS, lower)];
}

/** Return bounds of e^x, times 2^BITS: Taylor's series on x / 2^h, then h squarings. */
function expBounds([n, d]: Fraction): [bigint, bigint] {
  const halvings = Math.max(0, length(n) - length(d) + 2);
  const denominator = d << BigInt(halvings);
  let terms = 0n;
  let lower = 0n;
  for (let term = 1n << GUARD; term; term = (term * n) / (denominator * terms)) {
    lower += term;
    terms++;
  }
  let upper = lower + 2n * terms + 4n;
  for (let i = 0; i < halvings; i++) {
    lower = (lower * lower) >> GUARD;
    upper = ceil(upper * upper, 1n << GUARD);
  }
  return [lower >> 128n, ceil(upper, 1n << 128n)];
}

function up(value: bigint): bigint {
  return ceil(value, ONE);
}

function ceil(value: bigint, by: bigint): bigint {
  return (value + by - 1n) / by;
}

function length(value: bigint): number {
  return value.toString(2).length;
}

/** Return the integer square root. */
function root(value: bigint): bigint {
  let high = 1n << BigInt((length(value) >> 1) + 1);
  for (;;) {
    const next = (high + value / high) >> 1n;
    if (next >= high) return high;
    high = next;
  }
}

function little(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
