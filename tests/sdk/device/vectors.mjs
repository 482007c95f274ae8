// Checks the device of the browser against vectors; prints the parts that differ, as JSON.
import { readFileSync } from "node:fs";
import {
  aboutToEvent, agree, batches, calibrated, clipToNorm, coarse, Connection, decide, decodeEnrolment, decodeSession,
  descend, fitTemperature, foresee, hex, holdsOut, latest, likeliest, likelyWithin, Model, NATIVE, NOTHING_FIRED,
  openPackage, ownMask, pairMask, PERSONAL, PLAIN, readInvitation, readTriggers, repeatable, SecureSum, SETTINGS,
  sound, soundLimits, SparseSum, split, stepsWithin, toGrid, train, training, Vocabulary, weightsDigest,
  WideGaussian, windows,
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

async function refuses(name, call, message) {
  const error = await call().then(() => new Error("no refusal"), (thrown) => thrown);
  same(name, error.name, "DeviceError");
  if (message) same(name, error.message, message);
}

async function stagesOf(each, primitives, graph) {
  const of = decodeSession(bytes(each.questions[0]));
  const sum = await (graph ? SparseSum : SecureSum).begin(of, {
    enrolment: decodeEnrolment(bytes(each.enrolment)),
    identity: await primitives.identity(bytes(each.identity)),
    authority: bytes(given.session.authority),
    fewest: 3,
    random: tape(each.random),
    primitives,
    graph,
  });
  const vector = Int32Array.from(each.vector);
  return sum.steps.map((step) => (question) => sum[step](question, step === "mask" ? vector : undefined));
}

async function session(name, primitives, { devices, refused = [], graph }) {
  for (const each of devices) {
    const stages = await stagesOf(each, primitives, graph);
    for (const [at, question] of each.questions.entries()) {
      const answer = hex(await stages[at](bytes(question)));
      same(`${name}: answer ${at + 1} of ${each.device}`, answer, each.answers[at]);
    }
    await refuses(`${name}: repeated stage`, () => stages[0]());
  }
  const victim = devices.find(({ device }) => device === "3");
  for (const { reason, stage, question, before = [], message } of refused) {
    const stages = await stagesOf(victim, primitives, graph);
    for (let at = 0; at + 1 < stage; at++) {
      await stages[at](bytes(before[0] === at + 1 ? before[1] : victim.questions[at]));
    }
    await refuses(`${name}: ${reason}`, () => stages[stage - 1](bytes(question)), message);
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
  await session(name, primitives, given.session);
  await session(`${name}, sparse`, primitives, given.sparse);
  const { graph, complete, withheld, devices: [first] } = given.sparse;
  const stages = await stagesOf(first, primitives, graph);
  for (let at = 0; at < 3; at++) await stages[at](bytes(first.questions[at]));
  same(`${name}: a box withheld`, hex(await stages[3](bytes(withheld))), first.answers[3]);
  await session(`${name}, small`, primitives, { ...complete, graph });
}
const { secret, threshold, holders, random, shares } = given.shares;
same("shares", split(bytes(secret), threshold, holders, tape(random)).map(hex), shares);
same("weights", hex(weightsDigest(bytes(given.weights.bytes))), given.weights.digest);
same("terms", hex(readInvitation(given.terms.invitation).terms), given.terms.digest);
const grouped = readInvitation(given.terms.grouped);
same("terms with groups", hex(grouped.terms), given.terms.grouped_digest);
same("terms with noise of 65 bits", hex(readInvitation(given.terms.noisy).terms), given.terms.noisy_digest);
const sparse = readInvitation(given.terms.sparse);
same("terms with a graph", hex(sparse.terms), given.terms.sparse_digest);
same("graph", [sparse.graph, grouped.graph ?? null], [given.sparse.graph, null]);
for (const [neighbours, threshold] of given.sparse.unsafe) {
  const invitation = JSON.parse(given.terms.sparse);
  invitation.groups.graph = { neighbours, threshold };
  await refuses("unsafe graph", async () => readInvitation(JSON.stringify(invitation)));
}
same("fewest of a group", [grouped.fewest, readInvitation(given.terms.invitation).fewest], [3, 3]);

const floats = (text) => new Float32Array(bytes(text).buffer);
const rows = (arrays) => arrays.map((row) => [...row]);

function tokens(of) {
  const vocabulary = new Vocabulary(of.catalogue);
  same("categories", vocabulary.categories, of.categories);
  same("fingerprint", vocabulary.fingerprint, of.fingerprint);
  const sequence = vocabulary.sequence(of.visits);
  same("sequence", sequence, of.sequence);
  same("training", vocabulary.sequence(training(of.visits, of.held_out)), of.training);
  const cut = windows(sequence, of.windows);
  same("inputs", rows(cut.inputs), of.windows.inputs);
  same("answers", rows(cut.answers), of.windows.answers);
  same("latest", latest(of.visits, of.latest.most), of.latest.visits);
}

let farthest = 0;
function close(name, found, expected) {
  const distance = Math.max(...expected.map((value, at) => Math.abs(value - found[at])));
  farthest = Math.max(farthest, distance);
  if (!(distance <= 2e-6) || found.length !== expected.length) different.push([name, distance]);
}

async function model(of) {
  const { vocabulary, embedding, hidden, temperature } = of;
  const lstm = new Model(vocabulary, embedding, hidden);
  const weights = floats(of.weights);
  for (const [at, history] of of.histories.entries()) {
    close("probabilities", [...lstm.predict(weights, history, temperature)], of.probabilities[at]);
  }
  const asked = {
    inputs: of.inputs.map((row) => Int32Array.from(row)),
    answers: of.answers.map((row) => Int32Array.from(row)),
  };
  const count = of.answers.flat().filter((answer) => answer).length;
  const gradient = new Float32Array(lstm.size);
  for (const [row, input] of asked.inputs.entries()) {
    lstm.addGradient(weights, input, asked.answers[row], 1 / count, gradient);
  }
  close("gradient", [...gradient], of.gradient);
  const settings = {
    ...SETTINGS,
    batchSize: of.settings.batch_size,
    learningRate: of.settings.learning_rate,
    gradientNorm: of.settings.gradient_norm,
    updateNorm: of.settings.update_norm,
    proximal: of.settings.proximal,
  };
  close("update", [...(await train(lstm, weights, asked, of.batches, settings))], of.update);
  const drawn = batches(asked, settings, (length) => crypto.getRandomValues(new Uint8Array(length)));
  same("batches", drawn.flat().sort((a, b) => a - b), of.batches.flat().sort((a, b) => a - b));
}

async function pages(of) {
  const sent = [];
  const answers = [new Response(bytes(of.question)), new Response(null, { status: 204 })];
  globalThis.fetch = async (url, { body }) => {
    sent.push([url, hex(body)]);
    return answers.shift();
  };
  const enrolment = decodeEnrolment(bytes(of.enrolment));
  const identity = await PLAIN.identity(bytes(of.identity));
  const connection = new Connection("https://fleet", enrolment, identity, () => of.time);
  const { signal } = new AbortController();
  const question = await connection.poll(signal);
  same("question", [hex(question.ticket), question.stage], [of.ticket, 1]);
  await connection.answer(bytes(of.ticket), bytes(of.data), signal);
  const expected = ["poll", "answer"].map((name) => [`https://fleet/v1/device/${name}`, of[name]]);
  same("requests", sent, expected);
}

async function modelPackage(of) {
  const { vocabulary: size, temperature } = given.model;
  const vocabulary = new Vocabulary(given.tokens.catalogue);
  const own = new Vocabulary(JSON.parse(given.terms.invitation).categories);
  const read = await openPackage(bytes(of.bytes), bytes(of.signer), own, NATIVE);
  same("package", [read.version, read.model.vocabulary, read.temperature], [7, size, temperature]);
  same("weights", hex(new Uint8Array(read.weights.buffer)), given.model.weights);
  const changed = bytes(of.bytes);
  changed[70] ^= 1;
  await refuses("changed package", () => openPackage(changed, bytes(of.signer), own, PLAIN));
  const other = openPackage(bytes(of.bytes), bytes(of.signer), vocabulary, PLAIN);
  await refuses("other vocabulary", () => other);
}

async function intent(of) {
  const { vocabulary: size, embedding, hidden, temperature } = given.model;
  const vocabulary = new Vocabulary(JSON.parse(given.terms.invitation).categories);
  const model = new Model(size, embedding, hidden);
  const weights = floats(given.model.weights);
  const sequence = vocabulary.sequence(of.visits);
  same("history", [...sequence, 1], of.history);
  const random = repeatable();
  same("draws", of.draws.map(() => random()), of.draws);
  for (const { categories, steps, probability } of of.about) {
    const tokens = new Set(categories.map((name) => vocabulary.token(name)));
    const settings = { steps, continuations: 1000, ends: 0 };
    const packaged = { model, weights, temperature };
    const bySteps = await likelyWithin(packaged, of.history, [tokens], settings, repeatable());
    const [found] = bySteps[steps - 1];
    // A draw at the border of two categories may fall to the other one by rounding.
    if (Math.abs(found - probability) > 0.002) different.push(["about", found, probability]);
  }
  const likely = Float64Array.from([0, 0, 0, ...vocabulary.categories.map((name) => of.likely[name])]);
  same("likeliest", likeliest(likely, vocabulary, 4), of.likely);
  same("coarse", coarse(of.likely), of.coarse);
  same("coarse of nothing", coarse({}), {});
  const past = vocabulary.sequence(training(of.visits, PERSONAL.heldOut));
  const heldOut = windows(sequence, { ...PERSONAL, start: past.length });
  const loss = (tried) => model.loss(weights, heldOut, tried);
  close("loss", [loss(temperature)], [of.loss]);
  // The minimum is flat: rounding moves it further than the loss.
  const moved = Math.abs(fitTemperature(loss) - of.temperature);
  if (!(moved < 1e-4)) different.push(["temperature", moved]);
  const asked = windows(past, PERSONAL);
  const head = await descend(model, weights, asked, of.steps, PERSONAL, { first: model.head });
  close("head", [...head], of.head);
}

async function triggers(of) {
  const vocabulary = new Vocabulary(JSON.parse(given.terms.invitation).categories);
  for (const { unit, held, ...rest } of of.holdouts) {
    same("held out", holdsOut(sound({ ...rest, categories: ["tea"] }), unit), held);
  }
  for (const { times, steps, now, seconds, pace, shares } of of.pace) {
    const visits = times.map((at, number) => {
      return { number, at, categories: Array.from({ length: steps[number] }, (_, place) => `c${place}`) };
    });
    close("pace", stepsWithin(visits, now, seconds, pace), shares);
  }
  const { map, points } = of.calibration;
  close("calibrated", points.map(([raw]) => calibrated(map, raw)), points.map(([, right]) => right));
  for (const { triggers, limits, visits, walk, today, noticed, open } of of.decisions) {
    let state = NOTHING_FIRED;
    for (const [at, each] of walk.entries()) {
      const { now, day, hour } = each;
      const trigger = sound(triggers[each.trigger]);
      const likely = { probability: each.probability, category: trigger.categories[0] };
      const moment = { now, day, hour, visits: visits.slice(0, each.visits) };
      const [next, fires] = decide(state, trigger, likely, moment, soundLimits(limits));
      same(`decision ${at}`, fires, each.fires);
      state = next;
    }
    same("today", Object.entries(state.today).sort(), Object.entries(today).sort());
    same("noticed", [state.noticed, Object.keys(state.open).sort()], [noticed, open]);
  }
  const { vocabulary: size, embedding, hidden, temperature } = given.model;
  const packaged = { model: new Model(size, embedding, hidden), weights: floats(given.model.weights), temperature };
  const { visits, now, triggers, probabilities, categories } = of.foreseen;
  const found = await foresee(packaged, vocabulary, { visits, open: false }, triggers.map(sound), now);
  same("foreseen", found.map(({ category }) => category), categories);
  // A draw at the border of two categories may fall to the other one by rounding.
  const distance = Math.max(...found.map(({ probability }, at) => Math.abs(probability - probabilities[at])));
  if (!(distance < 0.005)) different.push(["foreseen", distance]);
  for (const { foresight, telling, event } of of.events) same("event", aboutToEvent(foresight, telling) ?? null, event);
  for (const text of of.refused) {
    await refuses(text, async () => readTriggers(text, (category) => vocabulary.has(category)));
  }
}

for (const { sigma_squared, random, count, draws } of given.noise) {
  const noise = new WideGaussian(BigInt(sigma_squared), tape(random));
  same(`noise ${sigma_squared}`, [...noise.sample(count)], draws);
}
await pages(given.pages);
await intent(given.intent);
await triggers(given.triggers);
await modelPackage(given.package);
tokens(given.tokens);
for (const { update, update_norm, units, clipped, whole } of given.grid) {
  const scaled = clipToNorm(floats(update), update_norm);
  same("clipped", hex(new Uint8Array(scaled.buffer)), clipped);
  same("whole", [...toGrid(floats(update), update_norm, units)], whole);
}
await model(given.model);
console.error(`floats differ by at most ${farthest}`);
console.log(JSON.stringify(different));
