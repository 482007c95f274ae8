// Participation of a device in the rounds of its run: enrolment, questions and answers.

import type { Bytes } from "./bytes.js";
import { Connection, Outage } from "./connection.js";
import { require } from "./errors.js";
import type { Invitation } from "./invitation.js";
import { mayBegin, Meter, type Surroundings } from "./limits.js";
import { decodeEnrolment, encodeEnrolment, type Enrolment, enrolmentText } from "./messages.js";
import { Model } from "./model.js";
import { type Identity, primitives, type Primitives } from "./primitives.js";
import { Rounds } from "./rounds.js";
import type { Random } from "./sharing.js";
import type { DeviceStore } from "./store.js";
import { latest, training, type Vocabulary, windows } from "./tokens.js";
import { batches, type Settings, SETTINGS, train } from "./training.js";

const FIRST_WAIT_MS = 1_000;
const LONGEST_WAIT_MS = 60_000;
const CHECK_MS = 5_000;

/** Parts of a page that take part. */
export interface Participation {
  readonly invitation: Invitation;
  readonly vocabulary: Vocabulary;
  readonly store: DeviceStore;
  readonly surroundings: Surroundings;
  readonly url: string;
  readonly secondsPerDay: number;
  readonly random: Random;
  enrol(identity: Bytes, signal: AbortSignal): Promise<Uint8Array>;
  report(error: unknown): void;
  onStage?: ((stage: number) => void) | undefined;
}

/** Take part in rounds until the signal; an outage is retried. */
export async function takePart(of: Participation, signal: AbortSignal): Promise<void> {
  const by = await primitives();
  const identity = await by.identity(await identityKey(of.store, by));
  const enrolment = await retried(of, signal, () => enrolmentOf(of, identity, by, signal));
  if (!enrolment) return;
  const connection = new Connection(of.url.replace(/\/+$/, ""), enrolment, identity);
  let meter = new Meter(of.surroundings);
  const rounds = roundsOf(of, enrolment, identity, by, async () => {
    await meter.pause();
    require(!signal.aborted, "stopped"); // ends a training whose result is not sent
  });
  let open = false; // a session waits for further questions
  let last: { ticket: string; answer: Bytes } | undefined;
  while (!signal.aborted) {
    await retried(of, signal, async () => {
      if (!open && !(await mayBegin(of.surroundings, await of.store.spentToday(), of.secondsPerDay))) {
        return sleep(CHECK_MS, signal);
      }
      const question = await connection.poll(signal);
      if (!question) {
        open = false;
        return;
      }
      const ticket = question.ticket.join();
      let uncounted: unknown;
      if (last?.ticket !== ticket) {
        meter = new Meter(of.surroundings);
        let answer: Bytes = new Uint8Array();
        try {
          answer = await rounds.answer(question.stage, question.data, question.weights);
        } catch (error) {
          if (!signal.aborted) of.report(error); // the empty answer says that the device leaves
        }
        last = { ticket, answer };
        open = answer.length > 0 && question.stage < rounds.stages;
        if (!signal.aborted) await of.store.spend(meter.total()).catch((error: unknown) => {
          uncounted = error;
        });
      }
      // A question that comes again was answered, and its answer was lost.
      await connection.answer(question.ticket, last.answer, signal);
      if (last.answer.length > 0) of.onStage?.(question.stage);
      if (uncounted) throw uncounted; // time that cannot be stored must not be spent
    });
  }
}

/** Repeat work after outages, with growing pauses; undefined after the signal. */
async function retried<T>(
  of: Participation,
  signal: AbortSignal,
  work: () => Promise<T>,
): Promise<T | undefined> {
  for (let wait = FIRST_WAIT_MS; !signal.aborted; wait = Math.min(2 * wait, LONGEST_WAIT_MS)) {
    try {
      return await work();
    } catch (error) {
      if (signal.aborted) return undefined;
      if (!(error instanceof Outage)) throw error;
      of.report(error);
      await sleep(Math.max(wait, error.waitMs), signal);
    }
  }
  return undefined;
}

function roundsOf(
  of: Participation,
  enrolment: Enrolment,
  identity: Identity,
  by: Primitives,
  pause: () => Promise<void>,
): Rounds {
  const { invitation, vocabulary, random, store } = of;
  const { plan } = invitation;
  const settings: Settings = {
    ...SETTINGS,
    learningRate: invitation.learningRate,
    batchSize: invitation.batchSize,
    proximal: invitation.proximal,
    updateNorm: plan.updateNorm,
  };
  const model = new Model(vocabulary.size, invitation.embedding, invitation.hidden);
  const { authority, fewest, graph } = invitation;
  const member = { enrolment, identity, authority, fewest, graph, random, primitives: by };
  return new Rounds(invitation, member, store, async (weights) => {
    const { visits } = await store.visits();
    const known = visits.map(({ categories }) => categories.filter((name) => vocabulary.has(name)));
    const past = vocabulary.sequence(training(latest(known), settings.heldOut));
    const asked = windows(past, settings);
    const steps = batches(asked, settings, random);
    return train(model, weights, asked, steps, settings, pause);
  });
}

async function identityKey(store: DeviceStore, by: Primitives) {
  const known = await store.get("identity");
  if (known) return known;
  const drawn = await by.newIdentity();
  try {
    await store.put("identity", drawn);
    return drawn;
  } catch {
    // Some private windows store no key that code cannot read.
    const bytes = crypto.getRandomValues(new Uint8Array(32));
    await store.put("identity", bytes);
    return bytes;
  }
}

/** Return the stored enrolment, or a new one if there is none of this authority. */
async function enrolmentOf(of: Participation, identity: Identity, by: Primitives, signal: AbortSignal) {
  const { authority } = of.invitation;
  const ours = (enrolment: Enrolment): Promise<boolean> =>
    by.verify(authority, enrolment.certificate, enrolmentText(enrolment.device, identity.publicKey));
  const stored = await of.store.get("enrolment");
  if (stored) {
    const enrolment = decodeEnrolment(stored);
    if (await ours(enrolment)) return enrolment;
  }
  const enrolment = decodeEnrolment((await of.enrol(identity.publicKey, signal)).slice());
  require(
    await ours(enrolment),
    "the enrolment is not for this device, or of another authority than the invitation's",
  );
  await of.store.put("enrolment", encodeEnrolment(enrolment));
  return enrolment;
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener("abort", end);
    if (signal.aborted) end();
  });
}
