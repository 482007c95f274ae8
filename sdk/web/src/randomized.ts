// An answer that is private before it leaves the device: with some probability the true one, else
// any of the others.

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
 * Returns a private report of one answer. What it costs was decided with the weights: the odds of any
 * report change by no more than `truth / other`, whatever the true answer is. Each report costs that
 * again, so keep the first report of a lasting answer and send the same.
 */
export function randomizedResponse(category: number, weights: Weights): number {
  const { categories } = weights;
  const truth = BigInt(weights.truth);
  const other = BigInt(weights.other);
  const total = truth + other * BigInt(categories - 1);
  if (!Number.isInteger(category) || category < 0 || category >= categories) {
    throw new RangeError(`the answer is ${category}: it must lie between 0 and ${categories - 1}`);
  }
  if (other < 1n || truth < other || total > 1n << 64n) {
    throw new RangeError("the weights must be positive, the true answer's the largest, and fill 64 bits");
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

/** 64 bits of the browser's cryptographic generator; `Math.random` could be guessed. */
function random64(): bigint {
  const [low, high] = crypto.getRandomValues(new Uint32Array(2));
  return (BigInt(high ?? 0) << 32n) | BigInt(low ?? 0);
}
