// Attributes whose targeted values the payload holds as hashes only, so that a page cannot list them.

import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { hasOwn, type Json, type JsonObject, toJson } from "./json.js";
import type { Hashed } from "./model.js";

/**
 * Return the attributes and, for each hashed one, `#NAME` with the hash of its value.
 *
 * The hash is SHA-256 of the salt and the value as JSON, in UTF-8. A list becomes the list of the hashes
 * of its elements, at any depth; a missing attribute stays missing.
 */
export function withDerived(attributes: JsonObject, hashed: Hashed | undefined): JsonObject {
  if (!hashed) return attributes;
  const derived: JsonObject = { ...attributes };
  for (const name of hashed.attributes) {
    const value = hasOwn(attributes, name) ? (attributes[name] ?? null) : null;
    // One that the page calls `#NAME` itself never counts.
    if (value === null) delete derived[`#${name}`];
    else derived[`#${name}`] = digest(hashed.salt, value);
  }
  return derived;
}

function digest(salt: string, value: Json): Json {
  if (value === null) return null;
  if (Array.isArray(value)) return value.map((element) => digest(salt, element));
  return bytesToHex(sha256(new TextEncoder().encode(salt + toJson(value))));
}
