// Conditions on attributes, in the form that GrowthBook publishes: `{"country": {"$in": ["DE"]}}`.
// The Python evaluator (`tactful_bandits.flags`) decides the same for every condition.

import { hasOwn, isObject, type Json, type JsonObject, toJson, toText } from "./json.js";
import { compareTyped, inNetworks, parseNumber } from "./typed.js";

/** Lists of values by name, for `$inGroup` and `$notInGroup`. */
export type SavedGroups = Readonly<Record<string, readonly Json[]>>;

/** Return the value at a path such as `user.country`; null if there is none. */
export function valueAt(attributes: Json, path: string): Json {
  let found: Json = attributes;
  for (const name of path.split(".")) {
    if (!isObject(found) || !hasOwn(found, name)) return null;
    found = found[name] ?? null;
  }
  return found;
}

/** Return whether attributes fulfil a condition; an unknown operator is never fulfilled. */
export function fulfils(attributes: Json, condition: JsonObject, groups: SavedGroups = {}): boolean {
  const holds = (part: Json) => isObject(part) && fulfils(attributes, part, groups);
  return Object.entries(condition).every(([key, operand]) => {
    const parts = Array.isArray(operand) ? operand : [];
    switch (key) {
      case "$or":
        return parts.length === 0 || parts.some(holds);
      case "$nor":
        return parts.length > 0 && !parts.some(holds);
      case "$and":
        return parts.every(holds);
      case "$not":
        return !holds(operand);
      default:
        return matches(valueAt(attributes, key), operand, groups);
    }
  });
}

/** Return whether a value equals an operand or fulfils all operators of one. */
function matches(value: Json, operand: Json, groups: SavedGroups, insensitive = false): boolean {
  if (isOperators(operand)) {
    return Object.entries(operand).every(([name, right]) => operate(name, value, right, groups));
  }
  if (typeof operand === "string") {
    const text = toText(value);
    return insensitive ? text.toLowerCase() === operand.toLowerCase() : text === operand;
  }
  if (typeof operand === "number") return toNumber(value) === operand;
  if (typeof operand === "boolean") return value !== null && Boolean(value) === operand;
  return toJson(value) === toJson(operand);
}

function isOperators(operand: Json): operand is JsonObject {
  const names = isObject(operand) ? Object.keys(operand) : [];
  return names.length > 0 && names.every((name) => name.startsWith("$"));
}

type Operator = (value: Json, operand: Json, groups: SavedGroups) => boolean;

const OPERATORS: Readonly<Record<string, Operator>> = {
  $eq: (value, operand) => same(value, operand),
  $ne: (value, operand) => !same(value, operand),
  $lt: (value, operand) => ordered(value, operand, (sign) => sign < 0),
  $lte: (value, operand) => ordered(value, operand, (sign) => sign <= 0),
  $gt: (value, operand) => ordered(value, operand, (sign) => sign > 0),
  $gte: (value, operand) => ordered(value, operand, (sign) => sign >= 0),
  $veq: (value, operand) => version(value) === version(operand),
  $vne: (value, operand) => version(value) !== version(operand),
  $vlt: (value, operand) => version(value) < version(operand),
  $vlte: (value, operand) => version(value) <= version(operand),
  $vgt: (value, operand) => version(value) > version(operand),
  $vgte: (value, operand) => version(value) >= version(operand),
  $exists: (value, operand) => (value !== null) === Boolean(operand),
  $in: (value, operand) => Array.isArray(operand) && isIn(value, operand),
  $nin: (value, operand) => Array.isArray(operand) && !isIn(value, operand),
  $ini: (value, operand) => Array.isArray(operand) && isIn(value, operand, fold),
  $nini: (value, operand) => Array.isArray(operand) && !isIn(value, operand, fold),
  $inGroup: (value, operand, groups) => isIn(value, group(groups, operand)),
  $notInGroup: (value, operand, groups) => !isIn(value, group(groups, operand)),
  $not: (value, operand, groups) => !matches(value, operand, groups),
  $size: (value, operand, groups) => Array.isArray(value) && matches(value.length, operand, groups),
  $elemMatch: (value, operand, groups) => Array.isArray(value) && hasElement(value, operand, groups),
  $all: (value, operand, groups) => hasAll(value, operand, groups, false),
  $alli: (value, operand, groups) => hasAll(value, operand, groups, true),
  $regex: (value, operand) => searches(value, operand, ""),
  $regexi: (value, operand) => searches(value, operand, "i"),
  $notRegex: (value, operand) => !searches(value, operand, ""),
  $notRegexi: (value, operand) => !searches(value, operand, "i"),
  $type: (value, operand) => typeName(value) === operand,
  $number: (value, operand) => compareTyped("$number", value, operand),
  $date: (value, operand) => compareTyped("$date", value, operand),
  $semver: (value, operand) => compareTyped("$semver", value, operand),
  $cidr: inNetworks,
};

function operate(name: string, value: Json, operand: Json, groups: SavedGroups): boolean {
  return hasOwn(OPERATORS, name) && OPERATORS[name]!(value, operand, groups);
}

/** Compare two numbers or two texts; values of other or different types have no order. */
function ordered(left: Json, right: Json, accepts: (sign: number) => boolean): boolean {
  const comparable =
    (typeof left === "number" && typeof right === "number") ||
    (typeof left === "string" && typeof right === "string");
  return comparable && accepts(left < right ? -1 : left > right ? 1 : 0);
}

/** Return whether a list has a value or, for a list of values, one of them. */
function isIn(value: Json, list: readonly Json[], normal = (element: Json) => element): boolean {
  const values = Array.isArray(value) ? value : [value];
  return values.some((left) => list.some((right) => same(normal(left), normal(right))));
}

function group(groups: SavedGroups, name: Json): readonly Json[] {
  return typeof name === "string" && hasOwn(groups, name) ? (groups[name] ?? []) : [];
}

function hasElement(elements: readonly Json[], operand: Json, groups: SavedGroups): boolean {
  const nested = isObject(operand) && !isOperators(operand);
  return elements.some((element) =>
    nested ? fulfils(element, operand, groups) : matches(element, operand, groups),
  );
}

function hasAll(value: Json, operand: Json, groups: SavedGroups, insensitive: boolean): boolean {
  if (!Array.isArray(value) || !Array.isArray(operand)) return false;
  return operand.every((part) =>
    value.some((element) => matches(element, part, groups, insensitive)),
  );
}

const compiled = new Map<string, RegExp | null>();

function searches(value: Json, operand: Json, flags: string): boolean {
  const pattern = toText(operand);
  const key = `${flags}/${pattern}`;
  if (!compiled.has(key)) {
    if (compiled.size >= 1_000) compiled.clear();
    compiled.set(key, compile(pattern, `${flags}u`) ?? compile(pattern, flags));
  }
  return compiled.get(key)?.test(toText(value)) ?? false;
}

function compile(pattern: string, flags: string): RegExp | null {
  try {
    return new RegExp(pattern, flags);
  } catch {
    return null;
  }
}

/**
 * Return a version as text that sorts as versions do: numbers padded, build information removed, a
 * release behind its pre-releases.
 */
function version(value: Json): string {
  const clean = (value ? toText(value) : "0").replace(/^v|\+.*$/g, "");
  const parts = clean.split(/[-.]/);
  if (parts.length === 3) parts.push("~");
  return parts.map((part) => (/^[0-9]+$/.test(part) ? part.padStart(5, " ") : part)).join("-");
}

function typeName(value: Json): string {
  if (value === null) return "null";
  return Array.isArray(value) ? "array" : typeof value;
}

/** Return the number that a text shows; nothing counts as 0, and true as 1, as in JavaScript. */
function toNumber(value: Json): number {
  if (typeof value === "string") return /^[ \t\n\r]*$/.test(value) ? 0 : parseNumber(value);
  return value === null || typeof value !== "object" ? Number(value) : Number.NaN;
}

function fold(value: Json): Json {
  return typeof value === "string" ? value.toLowerCase() : value;
}

/** Return whether two values are the same; booleans and numbers differ. */
function same(left: Json, right: Json): boolean {
  if (left === right) return true;
  const nested = typeof left === "object" && typeof right === "object";
  return nested && toJson(left) === toJson(right);
}
