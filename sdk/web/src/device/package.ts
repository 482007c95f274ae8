// Signed model of a run, as `tactful federated serve` writes it.

import { sha256 } from "@noble/hashes/sha2.js";
import { type Bytes, concat, equal, utf8 } from "./bytes.js";
import { require } from "./errors.js";
import { type Floats, Model } from "./model.js";
import { Double, unpack } from "./msgpack.js";
import type { Primitives } from "./primitives.js";
import type { Vocabulary } from "./tokens.js";

/** Model of a package. */
export interface Packaged {
  readonly version: number;
  readonly model: Model;
  readonly weights: Floats;
  readonly temperature: number;
}

/** Check the signature of a package and that it is for a vocabulary, then read it. */
export async function openPackage(
  data: Bytes,
  signer: Uint8Array,
  vocabulary: Vocabulary,
  primitives: Primitives,
): Promise<Packaged> {
  const body = data.slice(64);
  const text = concat(utf8("tactful intent model 1\0"), sha256(body));
  require(
    await primitives.verify(signer, data.slice(0, 64), text),
    "the package is not signed by the key this device trusts",
  );
  const fields = unpack(body);
  require(Array.isArray(fields) && fields.length === 6, "the package is not an intent model");
  const [version, fingerprint, embedding, hidden, temperature, weights] = fields;
  require(
    typeof fingerprint === "string" && equal(utf8(fingerprint), utf8(vocabulary.fingerprint)),
    "the model is for another vocabulary: update the device",
  );
  require(
    typeof version === "number" &&
      typeof embedding === "number" &&
      typeof hidden === "number" &&
      temperature instanceof Double &&
      temperature.value > 0 &&
      weights instanceof Uint8Array,
    "the package is not an intent model",
  );
  const model = new Model(vocabulary.size, embedding, hidden);
  require(weights.length === 4 * model.size, "the weights of the model do not fit");
  const floats = new Float32Array(weights.slice().buffer);
  require(floats.every(Number.isFinite), "the model holds a value that is not finite");
  return { version, model, weights: floats, temperature: temperature.value };
}
