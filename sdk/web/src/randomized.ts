// An answer that is private before it leaves the device: with some probability the true one, else
// any of the others.

const MAX_CATEGORIES = 100_000;

/** As `RandomizedResponse.weights` of the Python package gives them; whole numbers as text. */
export interface Weights {
  /** Number of answers; they are 0, 1, … */
  categories: number;
  /** Weight of the true answer. */
  truth: string;
  /** Weight of each other answer. */
  other: string;
}

/**
 * Returns a private report of one answer: the odds of any report change by no more than
 * `truth / other`, whatever the true answer is. Each report costs that again, so keep the first
 * report of a lasting answer and send the same.
 *
 * @param maxEpsilon refuse weights that reveal more, where the page does not choose them itself: the
 *   largest natural logarithm of `truth / other` that the page accepts.
 * @throws RangeError for an answer, weights or `maxEpsilon` out of range; nothing is drawn.
 */
export function randomizedResponse(
  category: number,
  weights: Weights,
  maxEpsilon: number = Number.POSITIVE_INFINITY,
): number {
  const { categories } = weights;
  if (!Number.isInteger(categories) || categories < 2 || categories > MAX_CATEGORIES) {
    throw new RangeError(`categories is ${categories}: give a whole number, 2 to ${MAX_CATEGORIES}`);
  }
  if (!Number.isInteger(category) || category < 0 || category >= categories) {
    throw new RangeError(`the answer is ${category}: it must lie between 0 and ${categories - 1}`);
  }
  const truth = weight(weights.truth);
  const other = weight(weights.other);
  const total = truth + other * BigInt(categories - 1);
  // A sum of at least half the range also bounds the draws: each is used with a probability above 1/2.
  if (other < 1n || truth < other || total > 1n << 64n || total <= 1n << 63n) {
    throw new RangeError("the weights must be positive, the true answer's the largest, and fill 64 bits");
  }
  const epsilon = Math.log(Number(truth) / Number(other));
  // The quotient of two rounded numbers may exceed the exact one by a few units of the last digit.
  if (!(epsilon <= maxEpsilon + 1e-12)) {
    throw new RangeError(`the weights reveal epsilon ${epsilon.toFixed(3)}: the page accepts ${maxEpsilon}`);
  }
  for (;;) {
    const drawn = random64();
    if (drawn < truth) return category;
    // What lies beyond the sum of the weights is drawn again.
    if (drawn < total) {
      return (category + 1 + Number((drawn - truth) / other)) % categories;
    }
  }
}

function weight(text: string): bigint {
  if (!/^[0-9]{1,20}$/.test(text)) throw new RangeError(`a weight is ${text}: give a whole number as text`);
  return BigInt(text);
}

/** 64 bits of the browser's cryptographic generator; `Math.random` could be guessed. */
function random64(): bigint {
  const [low, high] = crypto.getRandomValues(new Uint32Array(2));
  return (BigInt(high ?? 0) << 32n) | BigInt(low ?? 0);
}
