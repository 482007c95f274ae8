// Arms that units keep although an experiment's weights change.

import type { ArmMeta } from "./model.js";

/** Arms of one unit, by experiment and version: `{"price__0": "high"}`. */
export interface StickyDocument {
  attributeName: string;
  attributeValue: string;
  assignments: Record<string, string>;
}

/** A place for the arms of units; `attribute||value` is the key of a unit. */
export interface StickyArms {
  get(key: string): StickyDocument | undefined;
  set(key: string, document: StickyDocument): void;
}

/** An attribute and its value, which is the unit. */
export interface Unit {
  attribute: string;
  value: string;
}

/** The versions of an experiment whose arms count. */
export interface Versions {
  key: string;
  variations: readonly unknown[];
  bucketVersion?: number;
  minBucketVersion?: number;
  meta?: ArmMeta[];
}

/** Return the key of a unit. */
export function unitKey({ attribute, value }: Unit): string {
  return `${attribute}||${value}`;
}

/**
 * Look up the arm that a unit has kept.
 *
 * @param units the unit, and the one of the fallback attribute; the first one has precedence.
 * @returns the index of the arm, -1 for none; `blocked` for a unit that had an arm of a version which
 *   has ended.
 */
export function keptArm(arms: StickyArms, units: Unit[], versions: Versions): number | "blocked" {
  const assignments: Record<string, string> = {};
  for (const unit of [...units].reverse()) {
    Object.assign(assignments, arms.get(unitKey(unit))?.assignments);
  }
  for (let version = 0; version < (versions.minBucketVersion ?? 0); version += 1) {
    if (assignments[`${versions.key}__${version}`] !== undefined) return "blocked";
  }
  const kept = assignments[assignmentKey(versions)];
  if (kept === undefined) return -1;
  return versions.variations.findIndex((_, arm) => armKey(versions.meta, arm) === kept);
}

/** Return the name of an arm: its number where none is given. */
export function armKey(meta: readonly ArmMeta[] | undefined, arm: number): string {
  return meta?.[arm]?.key || String(arm);
}

/** Keep an arm; nothing is written if it is kept already. */
export function keepArm(arms: StickyArms, unit: Unit, versions: Versions, arm: string): void {
  const known = arms.get(unitKey(unit))?.assignments ?? {};
  const key = assignmentKey(versions);
  if (known[key] === arm) return;
  arms.set(unitKey(unit), {
    attributeName: unit.attribute,
    attributeValue: unit.value,
    assignments: { ...known, [key]: arm },
  });
}

function assignmentKey({ key, bucketVersion }: Versions): string {
  return `${key}__${bucketVersion ?? 0}`;
}
