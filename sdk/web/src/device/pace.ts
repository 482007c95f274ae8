// Number of categories that a visitor chooses within some time, as `pace` in Python.

import type { StoredVisit } from "./store.js";

export const DAY_S = 86_400;
/** Largest number of steps to look ahead within a time; more count as this number. */
export const MOST_STEPS = 32;

const PUBLIC_WEIGHT = 5;
const MOST_VISITS = 500;

/**
 * Return the shares of 0 to `MOST_STEPS` steps within a time from now; all 0 if nothing is known.
 *
 * Each earlier visit is a moment like now if as much time passed after it without another visit as
 * has passed since the latest one, and if its time ahead is over. Public shares count as five.
 */
export function stepsWithin(
  visits: readonly StoredVisit[],
  now: number,
  seconds: number,
  pace: readonly number[] = [],
): number[] {
  const counts = Array.from({ length: MOST_STEPS + 1 }, (_, n) => PUBLIC_WEIGHT * (pace[n] ?? 0));
  for (const number of after(visits.slice(-MOST_VISITS), now, seconds)) {
    counts[Math.min(number, MOST_STEPS)]!++;
  }
  const total = counts.reduce((sum, count) => sum + count, 0);
  return total ? counts.map((count) => count / total) : counts;
}

/** Return the number of steps in the time ahead of each moment like now. */
function after(visits: readonly StoredVisit[], now: number, seconds: number): number[] {
  if (!visits.length) return [];
  const times = visits.map(({ at }) => at);
  const summed = [0];
  for (const { categories } of visits) {
    summed.push(summed[summed.length - 1]! + new Set(categories).size);
  }
  const until = (time: number): number => {
    const first = times.findIndex((at) => at > time);
    return first < 0 ? times.length : first;
  };
  const since = Math.max(0, now - times[times.length - 1]!);
  return times.flatMap((at) => {
    const begin = at + since;
    const first = until(begin);
    const alike = first === until(at) && begin + seconds <= now;
    return alike ? [summed[until(begin + seconds)]! - summed[first]!] : [];
  });
}
