// Buckets: a number in [0, 1) for each pair of a seed and a unit, and the intervals that arms take.
// The numbers are those of GrowthBook (docs/lib/build-your-own), so both programs assign alike.

/** An interval of buckets: the lower bound belongs to it, the upper one does not. */
export type Range = readonly [number, number];

/** A share of the units, by name: `[name, lower, upper]`. */
export type Namespace = readonly [string, number, number];

/** FNV-1a with 32 bits over UTF-16 code units, which `charCodeAt` returns. */
function fnv1a(text: string): number {
  let state = 0x811c9dc5;
  for (let at = 0; at < text.length; at += 1) {
    state = Math.imul(state ^ text.charCodeAt(at), 0x01000193);
  }
  return state >>> 0;
}

/**
 * Return the bucket of a unit.
 *
 * @param version 2; version 1 correlates between experiments and serves published definitions only.
 * @returns a number in [0, 1); null for an unknown version.
 */
export function bucket(seed: string, unit: string, version: number): number | null {
  if (version === 2) return (fnv1a(String(fnv1a(seed + unit))) % 10_000) / 10_000;
  if (version === 1) return (fnv1a(unit + seed) % 1_000) / 1_000;
  return null;
}

/** Return the same weight for each of `count` arms; they add up to 1. */
export function equalWeights(count: number): number[] {
  return count > 0 ? new Array<number>(count).fill(1 / count) : [];
}

/**
 * Return the interval of each arm. Coverage widens the intervals in place, so no unit changes its arm.
 *
 * @param coverage share of the units that take part; values outside [0, 1] count as 0 or 1.
 * @param weights equal ones replace weights of another number or with a sum outside [0.99, 1.01].
 */
export function bucketRanges(
  count: number,
  coverage?: number | null,
  weights?: readonly number[] | null,
): Range[] {
  const share = Math.min(1, Math.max(0, coverage ?? 1));
  const total = weights?.reduce((sum, weight) => sum + weight, 0) ?? 0;
  const sound = weights?.length === count && total >= 0.99 && total <= 1.01;
  let start = 0;
  return (weights && sound ? weights : equalWeights(count)).map((weight): Range => {
    const range: Range = [start, start + share * weight];
    start += weight;
    return range;
  });
}

/** Return whether a bucket lies in an interval. */
export function inRange(found: number, [lower, upper]: Range): boolean {
  return found >= lower && found < upper;
}

/** Return the index of the first interval with a bucket; -1 if there is none. */
export function chooseArm(found: number, ranges: readonly Range[]): number {
  return ranges.findIndex((range) => inRange(found, range));
}

/** Return whether a unit belongs to a share by name. */
export function inNamespace(unit: string, [name, lower, upper]: Namespace): boolean {
  const found = bucket(`__${name}`, unit, 1);
  return found !== null && inRange(found, [lower, upper]);
}
