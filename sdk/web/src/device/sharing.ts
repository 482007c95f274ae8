// Shamir's secret sharing of 32-byte secrets over a prime field just above 2^256.

import { type Bytes, fromNumber, toNumber } from "./bytes.js";
import { require } from "./errors.js";

export const SHARE_BYTES = 33;

const PRIME = (1n << 256n) + 297n;

/** Returns cryptographically secure bytes. */
export type Random = (length: number) => Bytes;

/** Return the shares of holders 1, 2, …, each of 33 bytes; `threshold` of them give the secret. */
export function split(
  secret: Uint8Array,
  threshold: number,
  holders: number,
  random: Random,
): Bytes[] {
  const fits = secret.length === 32 && threshold >= 1 && threshold <= holders;
  require(fits, `cannot share a secret among ${holders} holders with threshold ${threshold}`);
  // 64 bits more than the prime, so the remainder is uniform up to 2^-64.
  const polynomial = Array.from(
    { length: threshold - 1 },
    () => toNumber(random(SHARE_BYTES + 8)) % PRIME,
  );
  polynomial.push(toNumber(secret));
  return Array.from({ length: holders }, (_, index) => {
    const x = BigInt(index + 1);
    const value = polynomial.reduce((sum, coefficient) => (sum * x + coefficient) % PRIME, 0n);
    return fromNumber(value, SHARE_BYTES);
  });
}
