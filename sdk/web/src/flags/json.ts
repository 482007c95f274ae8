// Values of JSON, and tests of untrusted ones.

export type Json = null | boolean | number | string | Json[] | JsonObject;

export interface JsonObject {
  [name: string]: Json;
}

/** Return whether a value is an object and no list. */
export function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Return whether an object has a name itself; `constructor` and others of its prototype do not count. */
export function hasOwn(object: object, name: string): boolean {
  return Object.prototype.hasOwnProperty.call(object, name);
}

/** Return a text itself, and the JSON text of another value. */
export function toText(value: Json): string {
  return typeof value === "string" ? value : toJson(value);
}

/** Return JSON text with the names of objects in order, so that equal objects have one text. */
export function toJson(value: Json): string {
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(toJson).join(",")}]`;
  const names = Object.keys(value).sort();
  return `{${names.map((name) => `${JSON.stringify(name)}:${toJson(value[name] ?? null)}`).join(",")}}`;
}
