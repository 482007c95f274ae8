// Checks the device of the browser against vectors; prints the parts that differ, as JSON.
import { readFileSync } from "node:fs";
import {
  agree, decodeEnrolment, decodeSession, hex, NATIVE, ownMask, pairMask, PLAIN, readInvitation,
  SecureSum, split, weightsDigest,
} from "./device-core.js";

const given = JSON.parse(readFileSync(0, "utf8"));
const different = [];
const bytes = (text) => Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16));
const words = (mask) => hex(new Uint8Array(mask.buffer, mask.byteOffset, 4 * mask.length));

function same(name, found, expected) {
  if (JSON.stringify(found) !== JSON.stringify(expected)) different.push([name, found, expected]);
}

function tape(text) {
  let rest = bytes(text);
  return (length) => {
    if (length > rest.length) throw new Error("more randomness than in Python");
    const drawn = rest.slice(0, length);
    rest = rest.slice(length);
    return drawn;
  };
}

async function refuses(name, call) {
  const text = await call().then(() => "no refusal", (error) => error.name);
  same(name, text, "DeviceError");
}

async function stagesOf(each, primitives) {
  const of = decodeSession(bytes(each.questions[0]));
  const sum = await SecureSum.begin(of, {
    enrolment: decodeEnrolment(bytes(each.enrolment)),
    identity: await primitives.identity(bytes(each.identity)),
    authority: bytes(given.session.authority),
    fewest: 3,
    random: tape(each.random),
    primitives,
  });
  const vector = Int32Array.from(each.vector);
  return [
    () => sum.advertise(),
    (question) => sum.share(question),
    (question) => sum.mask(question, vector),
    (question) => sum.confirm(question),
    (question) => sum.open(question),
  ];
}

async function session(name, primitives) {
  const { devices, refused } = given.session;
  for (const each of devices) {
    const stages = await stagesOf(each, primitives);
    for (const [at, question] of each.questions.entries()) {
      const answer = hex(await stages[at](bytes(question)));
      same(`${name}: answer ${at + 1} of ${each.device}`, answer, each.answers[at]);
    }
    await refuses(`${name}: repeated stage`, () => stages[0]());
  }
  for (const { reason, stage, question } of refused) {
    const stages = await stagesOf(devices[0], primitives);
    for (let at = 0; at + 1 < stage; at++) await stages[at](bytes(devices[0].questions[at]));
    await refuses(`${name}: ${reason}`, () => stages[stage - 1](bytes(question)));
    await refuses(`${name}: after ${reason}`, () => stages[stage - 1](bytes(question)));
  }
}

async function masks(name, primitives) {
  const { context, own, pair, agreed, size } = given.masks;
  const about = bytes(context);
  const key = await primitives.agreementKey(bytes(given.masks.private));
  const other = bytes(given.masks.public);
  same(`${name}: own mask`, words(ownMask(bytes(given.masks.seed), about, size)), own);
  same(`${name}: pair mask`, words(await pairMask(key, other, about, size)), pair);
  same(`${name}: agreed`, hex(await agree(key, other, "box 3 20", about)), agreed);
  await refuses(`${name}: small order`, () => agree(key, new Uint8Array(32), "x", about));
}

for (const [name, primitives] of [["plain", PLAIN], ["native", NATIVE]]) {
  await masks(name, primitives);
  await session(name, primitives);
}
const { secret, threshold, holders, random, shares } = given.shares;
same("shares", split(bytes(secret), threshold, holders, tape(random)).map(hex), shares);
same("weights", hex(weightsDigest(bytes(given.weights.bytes))), given.weights.digest);
same("terms", hex(readInvitation(given.terms.invitation).terms), given.terms.digest);
console.log(JSON.stringify(different));
