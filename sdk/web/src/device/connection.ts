// Two routes of the server that leads rounds: fetch a question, send an answer.

import { type Bytes, utf8 } from "./bytes.js";
import { DeviceError, require } from "./errors.js";
import { digest, encodeEnrolment, type Enrolment } from "./messages.js";
import { pack, unpack } from "./msgpack.js";
import type { Identity } from "./primitives.js";

const ANSWER_S = 60;
const MOST_SKEW_MS = 86_400_000;

/** Question of a stage; the ticket names it in the answer. */
export interface Question {
  readonly ticket: Bytes;
  readonly stage: number;
  readonly data: Bytes;
  /** Little-endian float32 at stage 1, else empty. */
  readonly weights: Bytes;
}

/** Failure of the network or of the server; the same request may work later. */
export class Outage extends Error {
  override readonly name = "Outage";

  constructor(
    message: string,
    /** Milliseconds that the server asks to wait, 0 if it names none. */
    readonly waitMs = 0,
  ) {
    super(message);
  }
}

/** Return the encoded enrolment of a public key from the route of the enrolling authority. */
export async function enrolAt(url: string, identity: Bytes, signal: AbortSignal): Promise<Bytes> {
  // The shop recognises its visitor by the cookie of its own origin.
  const answer = await post(url, identity, signal, "same-origin");
  const refusal = REFUSALS[answer.status];
  if (refusal) throw new DeviceError(refusal);
  if (!answer.ok) throw outage(answer);
  return new Uint8Array(await answer.arrayBuffer());
}

const REFUSALS: Record<number, string> = {
  400: "the enrolling authority refuses the key of this device",
  401: "the visitor has to log in before this device is enrolled",
  403: "the enrolling authority does not allow this origin or visitor",
  404: "there is no enrolling authority at this address",
  409: "another device of this account is enrolled, or this one was before its data were deleted",
};

/** Connection of one enrolled device. */
export class Connection {
  private skew = 0;
  private readonly enrolment: Bytes;

  constructor(
    private readonly url: string,
    enrolment: Enrolment,
    private readonly identity: Identity,
    private readonly now: () => number = Date.now,
  ) {
    this.enrolment = encodeEnrolment(enrolment);
  }

  /** Return the next question; the server waits for one for a while. */
  async poll(signal: AbortSignal): Promise<Question | undefined> {
    const time = Math.round(this.now() + this.skew);
    const text = digest("poll", this.enrolment, utf8(String(time)));
    const body = pack([this.enrolment, time, await this.identity.sign(text)]);
    const answer = await this.post("poll", body, signal);
    if (answer.status === 204) return undefined;
    if (answer.status === 401) return this.correct(answer);
    const fields = unpack(new Uint8Array(await answer.arrayBuffer()));
    require(Array.isArray(fields) && fields.length === 4, "a question has another number of fields");
    const [ticket, stage, data, weights] = fields;
    const parts = [ticket, data, weights];
    require(
      typeof stage === "number" && parts.every((part) => part instanceof Uint8Array),
      "a question has a wrong type",
    );
    return { ticket, stage, data, weights } as Question;
  }

  /** Send the answer to a question; an empty one says that the device leaves the sum. */
  async answer(ticket: Bytes, data: Bytes, signal: AbortSignal): Promise<void> {
    const signature = await this.identity.sign(digest("answer", this.enrolment, ticket, data));
    await this.post("answer", pack([this.enrolment, ticket, data, signature]), signal);
  }

  /** Use the clock of the server, within a day, if it refused the time of this one. */
  private async correct(answer: Response): Promise<undefined> {
    const { time } = (await answer.json()) as { time?: number };
    const wrong = typeof time === "number" && Math.abs(time - this.now() - this.skew) > 3_000;
    require(wrong, "the server does not know the enrolment of this device: enrol it again");
    const skew = time - this.now();
    require(Math.abs(skew) < MOST_SKEW_MS, "the clock of this device is more than a day off");
    this.skew = skew;
    return undefined;
  }

  private async post(route: string, body: Bytes, signal: AbortSignal): Promise<Response> {
    const answer = await post(`${this.url}/v1/device/${route}`, body, signal, "omit");
    if (answer.ok || (route === "poll" && answer.status === 401)) return answer;
    if (answer.status === 403) throw new DeviceError("the server does not allow this origin");
    throw outage(answer);
  }
}

/** Send bytes; throws an `Outage` if no answer comes, or after the signal. */
async function post(
  url: string,
  body: Bytes,
  signal: AbortSignal,
  credentials: RequestCredentials,
): Promise<Response> {
  if (signal.aborted) throw new Outage("stopped"); // nothing leaves after consent was withdrawn
  const limit = new AbortController();
  const stop = (): void => limit.abort();
  const timer = setTimeout(stop, 1000 * ANSWER_S);
  signal.addEventListener("abort", stop);
  try {
    return await fetch(url, {
      method: "POST",
      headers: { "content-type": "application/msgpack" },
      body,
      signal: limit.signal,
      credentials,
      referrerPolicy: "no-referrer",
    });
  } catch {
    throw new Outage(signal.aborted ? "stopped" : "the server cannot be reached");
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", stop);
  }
}

function outage(answer: Response): Outage {
  const seconds = Number(answer.headers.get("retry-after"));
  return new Outage(`the server answered ${answer.status}`, seconds > 0 ? 1000 * seconds : 0);
}
