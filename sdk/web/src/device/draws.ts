// Numbers of `numpy.random.default_rng(0).random()`: equal visits give equal probabilities everywhere.

const MASK = (1n << 128n) - 1n;
const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;
// PCG64 after SeedSequence(0).
const STATE = 35399562948360463058890781895381311971n;
const INCREMENT = 87136372517582989555478159403783844777n;

/** Return a source of numbers in [0, 1): PCG-XSL-RR 128/64, of which 53 bits are used. */
export function repeatable(): () => number {
  let state = STATE;
  return () => {
    state = (state * MULTIPLIER + INCREMENT) & MASK;
    const folded = BigInt.asUintN(64, (state >> 64n) ^ state);
    const by = state >> 122n;
    const rotated = BigInt.asUintN(64, (folded >> by) | (folded << ((64n - by) & 63n)));
    return Number(rotated >> 11n) / 2 ** 53;
  };
}
