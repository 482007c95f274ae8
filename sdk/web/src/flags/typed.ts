// Attributes read as numbers, instants, versions or addresses. A value that cannot be read matches
// nothing. The Python package reads the same (`tactful_bandits.assignment.typed_values`).

import { hasOwn, isObject, type Json } from "./json.js";

const NUMBER = /^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$/;
const INSTANT =
  /^(\d{4})-(\d{2})-(\d{2})(?:T(\d{2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?(Z|[+-]\d{2}:\d{2})?)?$/;
const IDENTIFIER = "(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)";
const SEMVER = new RegExp(
  `^(0|[1-9][0-9]*)\\.(0|[1-9][0-9]*)\\.(0|[1-9][0-9]*)` +
    `(?:-(${IDENTIFIER}(?:\\.${IDENTIFIER})*))?(?:\\+[0-9A-Za-z-]+(?:\\.[0-9A-Za-z-]+)*)?$`,
);
const MINUTE_MS = 60_000;

/** Return the number that a text shows in decimal notation; NaN if there is none. */
export function parseNumber(text: string): number {
  const stripped = text.replace(/^[ \t\n\r]+|[ \t\n\r]+$/g, "");
  return NUMBER.test(stripped) ? Number(stripped) : Number.NaN;
}

/** Return a finite number, or the one in a text; null if there is none. */
export function readNumber(value: Json): number | null {
  const read = typeof value === "string" ? parseNumber(value) : value;
  return typeof read === "number" && Number.isFinite(read) ? read : null;
}

/** Return milliseconds since 1970 of a number or an ISO 8601 text; UTC without a zone. */
export function readInstant(value: Json): number | null {
  if (typeof value === "number") return readNumber(value);
  const found = typeof value === "string" ? INSTANT.exec(value) : null;
  if (!found) return null;
  const [year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0] = found
    .slice(1, 7)
    .map((part) => Number(part ?? 0));
  const milliseconds = Number((found[7] ?? "").slice(0, 3).padEnd(3, "0"));
  const moment = new Date(0);
  moment.setUTCFullYear(year, month - 1, day);
  moment.setUTCHours(hour, minute, second, milliseconds);
  // A day or an hour that does not exist would be carried over to the next.
  const same = moment.getUTCMonth() === month - 1 && moment.getUTCDate() === day;
  if (!same || year === 0 || hour > 23 || minute > 59 || second > 59) return null;
  const zone = found[8] ?? "Z";
  if (zone === "Z") return moment.getTime();
  const minutes = Number(zone.slice(1, 3)) * 60 + Number(zone.slice(4));
  return moment.getTime() - (zone.startsWith("-") ? -minutes : minutes) * MINUTE_MS;
}

type Version = [release: bigint[], preRelease: string[]];

/** Return release and pre-release of Semantic Versioning 2.0; null for another text. */
function readVersion(value: Json): Version | null {
  const found = typeof value === "string" ? SEMVER.exec(value) : null;
  if (!found) return null;
  return [found.slice(1, 4).map((part) => BigInt(part)), found[4]?.split(".") ?? []];
}

function compareVersions([left, leftPre]: Version, [right, rightPre]: Version): number {
  for (const [at, part] of left.entries()) {
    if (part !== right[at]) return part < right[at]! ? -1 : 1;
  }
  if (leftPre.length === 0 || rightPre.length === 0) {
    return Number(leftPre.length === 0) - Number(rightPre.length === 0);
  }
  for (const [at, part] of leftPre.entries()) {
    const sign = at < rightPre.length ? compareIdentifiers(part, rightPre[at]!) : 1;
    if (sign !== 0) return sign;
  }
  return leftPre.length < rightPre.length ? -1 : 0;
}

/** Numbers come before texts. */
function compareIdentifiers(left: string, right: string): number {
  if (left === right) return 0;
  const [first, second] = [/^\d+$/.test(left), /^\d+$/.test(right)];
  if (first !== second) return first ? -1 : 1;
  return (first ? BigInt(left) < BigInt(right) : left < right) ? -1 : 1;
}

const READERS: Readonly<Record<string, (left: Json, right: Json) => number | null>> = {
  $number: (left, right) => difference(readNumber(left), readNumber(right)),
  $date: (left, right) => difference(readInstant(left), readInstant(right)),
  $semver: (left, right) => {
    const [first, second] = [readVersion(left), readVersion(right)];
    return first && second && compareVersions(first, second);
  },
};

const SIGNS: Readonly<Record<string, (sign: number) => boolean>> = {
  $eq: (sign) => sign === 0,
  $ne: (sign) => sign !== 0,
  $lt: (sign) => sign < 0,
  $lte: (sign) => sign <= 0,
  $gt: (sign) => sign > 0,
  $gte: (sign) => sign >= 0,
};

function difference(left: number | null, right: number | null): number | null {
  if (left === null || right === null) return null;
  return left < right ? -1 : left > right ? 1 : 0;
}

/**
 * Evaluate the comparisons of a typed operator: `{"$gte": "1.2.2"}`. All must hold, and there must be
 * one.
 *
 * @param operator `$number`, `$date` or `$semver`.
 */
export function compareTyped(operator: string, value: Json, operand: Json): boolean {
  const comparisons = isObject(operand) ? Object.entries(operand) : [];
  return (
    comparisons.length > 0 &&
    comparisons.every(([name, limit]) => {
      const sign = READERS[operator]?.(value, limit) ?? null;
      return sign !== null && hasOwn(SIGNS, name) && SIGNS[name]!(sign);
    })
  );
}

/** Return whether an IP address lies in one of the networks; unreadable ones hold nothing. */
export function inNetworks(value: Json, networks: Json): boolean {
  const address = typeof value === "string" ? readAddress(value) : null;
  if (!address || !Array.isArray(networks)) return false;
  return networks.some((network) => typeof network === "string" && inNetwork(address, network));
}

interface Address {
  bits: 32 | 128;
  value: bigint;
}

function inNetwork(address: Address, network: string): boolean {
  const [base = "", prefix, ...more] = network.split("/");
  const found = readAddress(base);
  if (!found || found.bits !== address.bits || more.length > 0) return false;
  if (prefix !== undefined && !/^[0-9]+$/.test(prefix)) return false;
  const host = found.bits - Number(prefix ?? found.bits);
  return host >= 0 && address.value >> BigInt(host) === found.value >> BigInt(host);
}

function readAddress(text: string): Address | null {
  if (!text.includes(":")) {
    const value = readFour(text);
    return value === null ? null : { bits: 32, value };
  }
  const value = readSix(text);
  return value === null ? null : { bits: 128, value };
}

function readFour(text: string): bigint | null {
  const parts = text.split(".");
  const sound = parts.length === 4 && parts.every((part) => /^(0|[1-9]\d{0,2})$/.test(part) && +part < 256);
  return sound ? parts.reduce((sum, part) => (sum << 8n) | BigInt(part), 0n) : null;
}

function readSix(text: string): bigint | null {
  let whole = text;
  const last = text.slice(text.lastIndexOf(":") + 1);
  if (last.includes(".")) {
    const four = readFour(last);
    if (four === null) return null;
    const [high, low] = [(four >> 16n).toString(16), (four & 0xffffn).toString(16)];
    whole = `${text.slice(0, text.length - last.length)}${high}:${low}`;
  }
  const halves = whole.split("::");
  const [left = [], right = []] = halves.map((half) => (half === "" ? [] : half.split(":")));
  const missing = 8 - left.length - right.length;
  const filled = halves.length === 2 ? missing >= 1 : missing === 0;
  const parts = [...left, ...new Array<string>(Math.max(0, missing)).fill("0"), ...right];
  if (halves.length > 2 || !filled || !parts.every((part) => /^[0-9a-f]{1,4}$/i.test(part))) return null;
  return parts.reduce((sum, part) => (sum << 16n) | BigInt(`0x${part}`), 0n);
}
