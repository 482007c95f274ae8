// Messages of a secure sum, protocols 2 and 3, and the keys derived in it: docs/reference/secure-sum.md.

import { chacha20 } from "@noble/ciphers/chacha.js";
import { hkdf } from "@noble/hashes/hkdf.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { type Bytes, concat, fromNumber, utf8 } from "./bytes.js";
import { require } from "./errors.js";
import { pack, unpack, type Value } from "./msgpack.js";
import { type AgreementKey, type Primitives, sharedSecret } from "./primitives.js";

/** Smallest sum: with two devices, each would learn the vector of the other. */
export const FEWEST_DEVICES = 3;

export interface Session {
  readonly run: string;
  readonly round: number;
  readonly nonce: Bytes;
  readonly size: number;
  readonly weights: Bytes;
  readonly terms: Bytes;
}

export interface Enrolment {
  /** Number of the device, up to 64 bits. */
  readonly device: bigint;
  readonly identity: Bytes;
  readonly certificate: Bytes;
}

export interface Advert {
  readonly enrolment: Enrolment;
  readonly boxKey: Bytes;
  readonly maskKey: Bytes;
  readonly seedDigest: Bytes;
  readonly signature: Bytes;
}

/** Byte strings by device. */
export type ByDevice = Map<bigint, Bytes>;

export const encodeSession = (of: Session): Bytes =>
  pack([of.run, of.round, of.nonce, of.size, of.weights, of.terms]);
export const encodeEnrolment = (of: Enrolment): Bytes => pack(enrolmentValue(of));
export const encodeAdvert = (of: Advert): Bytes => pack(advertValue(of));
export const encodeRoster = (of: readonly Advert[]): Bytes => pack([of.map(advertValue)]);
export const encodeBoxes = (sealed: ByDevice): Bytes => pack([sealed]);
export const encodeMasked = (values: Bytes): Bytes => pack([values]);
export const encodeAgreement = (signature: Bytes): Bytes => pack([signature]);
export const encodeOpened = (seeds: ByDevice, maskKeys: ByDevice): Bytes => pack([seeds, maskKeys]);

const enrolmentValue = (of: Enrolment): Value[] => [of.device, of.identity, of.certificate];
const advertValue = (of: Advert): Value[] => [
  enrolmentValue(of.enrolment),
  of.boxKey,
  of.maskKey,
  of.seedDigest,
  of.signature,
];

export function decodeSession(data: Uint8Array): Session {
  const [run, round, nonce, size, weights, terms] = fields(unpack(data), 4, 6);
  require(typeof run === "string", "the run of a session is not a text");
  return {
    run,
    round: count(round),
    nonce: bytes(nonce),
    size: count(size),
    // Both are missing in protocol 1.
    weights: bytes(weights ?? new Uint8Array()),
    terms: bytes(terms ?? new Uint8Array()),
  };
}

export const decodeEnrolment = (data: Uint8Array): Enrolment => readEnrolment(unpack(data));

export function decodeRoster(data: Uint8Array): Advert[] {
  const [adverts] = fields(unpack(data), 1);
  return list(adverts).map((value) => {
    const [enrolment, boxKey, maskKey, seedDigest, signature] = fields(value, 5);
    return {
      enrolment: readEnrolment(enrolment),
      boxKey: bytes(boxKey),
      maskKey: bytes(maskKey),
      seedDigest: bytes(seedDigest),
      signature: bytes(signature),
    };
  });
}

/** Decode Boxes or Agreements: byte strings by device. */
export function decodeByDevice(data: Uint8Array): ByDevice {
  const [found] = fields(unpack(data), 1);
  return byDevice(found);
}

/** Decode Dealt: signatures over the dealers of shares, and boxes by sender. */
export function decodeDealt(data: Uint8Array): { signatures: ByDevice; sealed: ByDevice } {
  const [signatures, sealed] = fields(unpack(data), 2);
  return { signatures: byDevice(signatures), sealed: byDevice(sealed) };
}

export function decodeSurvivors(data: Uint8Array): bigint[] {
  const [devices] = fields(unpack(data), 1);
  return list(devices).map(deviceNumber);
}

function readEnrolment(value: Value | undefined): Enrolment {
  const [device, identity, certificate] = fields(value, 3);
  return {
    device: deviceNumber(device),
    identity: bytes(identity),
    certificate: bytes(certificate),
  };
}

function fields(value: Value | undefined, fewest: number, most = fewest): Value[] {
  const found = list(value);
  require(found.length >= fewest && found.length <= most, "a message has another number of fields");
  return found;
}

function list(value: Value | undefined): Value[] {
  require(Array.isArray(value), "a field of a message is not an array");
  return value;
}

function bytes(value: Value | undefined): Bytes {
  require(value instanceof Uint8Array, "a field of a message does not hold bytes");
  return value as Bytes;
}

function byDevice(value: Value | undefined): ByDevice {
  require(value instanceof Map, "a message has no map of devices");
  return new Map([...value].map(([device, part]) => [deviceNumber(device), bytes(part)]));
}

function count(value: Value | undefined): number {
  require(typeof value === "number", "a field of a message is not a whole number");
  return value;
}

function deviceNumber(value: Value | undefined): bigint {
  require(typeof value === "number" || typeof value === "bigint", "a device is not a number");
  return BigInt(value);
}

/** Return the number of shares that open a secret: more than two thirds of the members. */
export function thresholdOf(members: number): number {
  return Math.floor((2 * members) / 3) + 1;
}

/** Check the sender of an advert, and that it belongs to this session. */
export async function checkAdvert(
  advert: Advert,
  session: Session,
  authority: Uint8Array,
  by: Primitives,
): Promise<void> {
  const { enrolment, boxKey, maskKey, seedDigest } = advert;
  const keys = [boxKey, maskKey, seedDigest];
  require(
    keys.every((key) => key.length === 32),
    "a key in an advert does not have 32 bytes",
  );
  const text = enrolmentText(enrolment.device, enrolment.identity);
  require(
    await by.verify(authority, enrolment.certificate, text),
    "an advert is from a device that is not enrolled",
  );
  require(
    await by.verify(enrolment.identity, advert.signature, advertText(session, advert)),
    "the signature of an advert is wrong",
  );
}

/** Check a roster and return its adverts by device. */
export async function indexRoster(
  roster: readonly Advert[],
  check: (advert: Advert) => Promise<void>,
): Promise<Map<bigint, Advert>> {
  const size = roster.length;
  require(size >= FEWEST_DEVICES, `a secure sum needs ${FEWEST_DEVICES} devices, not ${size}`);
  const devices = roster.map((advert) => advert.enrolment.device);
  require(
    devices.every((device, at) => at === 0 || device > devices[at - 1]!),
    "a roster does not list each member once, in ascending order",
  );
  for (const keyOf of [
    (advert: Advert) => advert.enrolment.identity,
    (advert: Advert) => advert.boxKey,
    (advert: Advert) => advert.maskKey,
  ]) {
    const keys = new Set(roster.map((advert) => keyOf(advert).join()));
    require(keys.size === size, "two members of a roster have the same key");
  }
  for (const advert of roster) await check(advert);
  return new Map(roster.map((advert) => [advert.enrolment.device, advert]));
}

export const enrolmentText = (device: bigint, identity: Uint8Array): Bytes =>
  digest("enrolment", utf8(String(device)), identity);
export const advertText = (session: Session, advert: Omit<Advert, "signature">): Bytes =>
  digest(
    "advert",
    encodeSession(session),
    encodeEnrolment(advert.enrolment),
    concat(advert.boxKey, advert.maskKey, advert.seedDigest),
  );
export const rosterDigest = (session: Session, roster: readonly Advert[]): Bytes =>
  digest("roster", encodeSession(session), encodeRoster(roster));
export const survivorsText = (
  context: Uint8Array,
  dealers: Iterable<bigint>,
  survivors: Iterable<bigint>,
): Bytes => digest("survivors", context, pack(ascending(dealers)), pack(ascending(survivors)));
export const dealersText = (context: Uint8Array, dealers: Iterable<bigint>): Bytes =>
  digest("dealers", context, pack(ascending(dealers)));
export const seedCommitment = (session: Session, seed: Uint8Array): Bytes =>
  digest("seed", encodeSession(session), seed);
/** Return the digest of weights, little-endian float32. */
export const weightsDigest = (weights: Uint8Array): Bytes => digest("weights", weights);
/** Return the digest of encoded terms. */
export const termsDigest = (terms: Uint8Array): Bytes => digest("terms", terms);

/** Derive the 32-byte key of two devices for a purpose (X25519, HKDF-SHA-256 without salt). */
export async function agree(
  key: AgreementKey,
  other: Uint8Array,
  purpose: string,
  context: Uint8Array,
): Promise<Bytes> {
  const shared = await sharedSecret(key, other);
  const about = concat(utf8(purpose), Uint8Array.of(0), context);
  return hkdf(sha256, shared, undefined, about, 32) as Bytes;
}

/** Return the mask of a pair of devices, unsigned words `[size]`. */
export async function pairMask(
  key: AgreementKey,
  other: Uint8Array,
  context: Uint8Array,
  size: number,
): Promise<Uint32Array> {
  return expand(await agree(key, other, "pair mask", context), size);
}

/** Return the own mask of a device, unsigned words `[size]`. */
export function ownMask(seed: Uint8Array, context: Uint8Array, size: number): Uint32Array {
  return expand(digest("own mask", context, seed), size);
}

/** Return device numbers in ascending order. */
export function ascending(devices: Iterable<bigint>): bigint[] {
  return [...devices].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
}

function expand(key: Uint8Array, size: number): Uint32Array {
  // Key stream of ChaCha20 with a zero nonce: each key expands one mask only.
  const stream = chacha20(key, new Uint8Array(12), new Uint8Array(4 * size));
  return new Uint32Array(stream.buffer, stream.byteOffset, size);
}

/** Return the digest of byte strings for a purpose; each is preceded by its length. */
export function digest(purpose: string, ...parts: Uint8Array[]): Bytes {
  const state = sha256.create().update(utf8(`tactful secure sum 1\0${purpose}`));
  for (const part of parts) state.update(fromNumber(BigInt(part.length), 8)).update(part);
  return state.digest() as Bytes;
}
