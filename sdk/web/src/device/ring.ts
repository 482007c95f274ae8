// Neighbours of the members of one session, derived from its roster, as `Ring` in Python.

import { hex, utf8 } from "./bytes.js";
import { require } from "./errors.js";
import { digest, thresholdOf } from "./messages.js";

/** Sparse graph of a sum; a roster of `neighbours` + 1 members or fewer is complete. */
export interface Graph {
  /** An even number: half of them on either side. */
  readonly neighbours: number;
  /** Surviving neighbours that each survivor needs, and shares that open a secret. */
  readonly threshold: number;
}

/** Neighbours of each member, and how many of them are needed. */
export interface Ring {
  /** Each member, with its neighbours and itself in ascending order, which are the holders of its shares. */
  readonly circles: ReadonlyMap<bigint, readonly bigint[]>;
  /** Shares that open a secret. */
  readonly shares: number;
  /** Surviving neighbours that each survivor needs; 0 in a complete graph. */
  readonly least: number;
}

/** Throw a `DeviceError` unless a graph hides the vector of each member, whoever drops out. */
export function checkGraph({ neighbours, threshold }: Graph): void {
  const sound = neighbours >= 2 && neighbours % 2 === 0;
  require(
    sound && 2 * threshold > neighbours && threshold <= neighbours,
    `a graph of ${neighbours} neighbours and threshold ${threshold} is not safe: the neighbours must` +
      " be even, and the threshold more than half of them, at most all",
  );
}

/** Return the neighbours of members, given in ascending order; no graph is a complete one. */
export function ringOf(context: Uint8Array, members: readonly bigint[], graph?: Graph): Ring {
  const count = members.length;
  if (!graph || count <= graph.neighbours + 1) {
    const circles = new Map(members.map((member) => [member, members]));
    return { circles, shares: thresholdOf(count), least: 0 };
  }
  // The context covers the keys of all members: nobody chooses places, except by other keys and rosters.
  const placed = members.map((member, at) => ({ at, digest: hex(ringPlace(context, member)) }));
  placed.sort((a, b) => (a.digest < b.digest ? -1 : 1));
  const half = graph.neighbours / 2;
  const circles = new Map<bigint, bigint[]>();
  for (const [place, { at }] of placed.entries()) {
    const circle = Array.from({ length: 2 * half + 1 }, (_, step) => {
      return placed[(place + step - half + count) % count]!.at;
    });
    circles.set(members[at]!, circle.sort((a, b) => a - b).map((other) => members[other]!));
  }
  return { circles, shares: graph.threshold, least: graph.threshold };
}

/** Throw a `DeviceError` if a survivor has too few surviving neighbours: their masks would be known. */
export function checkSurvivors(ring: Ring, survivors: ReadonlySet<bigint>): void {
  if (!ring.least) return;
  for (const member of survivors) {
    const count = ring.circles.get(member)!.filter((other) => survivors.has(other)).length - 1;
    require(
      count >= ring.least,
      `a survivor has ${count} surviving neighbours, and ${ring.least} are needed`,
    );
  }
}

function ringPlace(context: Uint8Array, device: bigint): Uint8Array {
  return digest("ring", context, utf8(String(device)));
}
