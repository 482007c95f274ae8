// Answers of a device to the questions of a server, in the rounds of one run.

import { type Bytes, equal } from "./bytes.js";
import { DeviceError, require } from "./errors.js";
import type { Invitation, Plan } from "./invitation.js";
import { decodeSession, type Session, weightsDigest } from "./messages.js";
import type { Floats } from "./model.js";
import { WideGaussian } from "./noise.js";
import { type Member, SecureSum } from "./session.js";
import { SparseSum } from "./sparse.js";
import { toGrid } from "./training.js";

/** Account of a device; each function throws a `DeviceError` to refuse. */
export interface Ledger {
  join(session: Session, plan: Plan): Promise<void>;
  charge(session: Session, plan: Plan): Promise<void>;
  agree(session: Session, partners: readonly Bytes[], fewest: number): Promise<void>;
}

/** Maps weights to an update; throws a `DeviceError` if the update is not finite. */
export type Trainer = (weights: Floats) => Promise<Floats>;

/**
 * Device in one run, as `SecureRounds` in Python.
 *
 * It refuses weights that are not finite and those that the session does not name, and terms other
 * than its invitation. A device whose training fails sends zeros, since a missing answer would
 * reveal the failure. It is charged before its vector leaves it.
 */
export class Rounds {
  private session: Session | undefined;
  private sum: SecureSum | undefined;
  private update: Int32Array | undefined;

  constructor(
    private readonly invitation: Invitation,
    private readonly member: Member,
    private readonly ledger: Ledger,
    private readonly trainer: Trainer,
  ) {}

  /** Number of stages of a sum. */
  get stages(): number {
    return this.member.graph ? 6 : 5;
  }

  /** Answer the question of a stage, from 1 on; the weights come at stage 1. */
  async answer(stage: number, question: Bytes, weights: Bytes): Promise<Bytes> {
    if (stage === 1) return this.begin(question, weights);
    const { sum, session, update } = this;
    require(sum && session && update, "this device has no open session");
    this.sum = undefined; // an error ends the session
    const answer = await this.next(sum, session, update, stage, question);
    if (stage < this.stages) this.sum = sum;
    else this.update = undefined;
    return answer;
  }

  private async next(
    sum: SecureSum,
    session: Session,
    update: Int32Array,
    stage: number,
    question: Bytes,
  ): Promise<Bytes> {
    const { plan, difference } = this.invitation;
    switch (sum.steps[stage - 1]) {
      case "share":
        return sum.share(question);
      case "settle":
        return (sum as SparseSum).settle(question);
      case "mask": {
        const answer = await sum.mask(question, update);
        await this.ledger.charge(session, plan);
        return answer;
      }
      case "confirm":
        return sum.confirm(question, (partners) => this.ledger.agree(session, partners, difference));
      case "open":
        return sum.open(question);
    }
    throw new DeviceError(`a secure sum has stages 1 to ${this.stages}, not ${stage}`);
  }

  private async begin(question: Bytes, data: Bytes): Promise<Bytes> {
    this.sum = undefined;
    const session = decodeSession(question);
    const { run, plan, terms } = this.invitation;
    require(
      session.run === run && session.size === plan.parameters && data.length === 4 * session.size,
      "the session is not for the run or the plan of this device",
    );
    require(
      equal(session.terms, terms),
      "the server has another plan or other settings than the invitation of this device: get the" +
        " invitation of the server",
    );
    require(
      equal(session.weights, weightsDigest(data)),
      "the weights are not those that the session names",
    );
    const weights = new Float32Array(data.slice().buffer); // little-endian, as all browsers
    require(weights.every(Number.isFinite), "the weights hold a value that is not finite");
    await this.ledger.join(session, plan);
    const kind = this.member.graph ? SparseSum : SecureSum;
    const sum = await kind.begin(session, this.member);
    this.update = this.withNoise(await this.train(weights));
    const answer = await sum.advertise();
    this.session = session;
    this.sum = sum;
    return answer;
  }

  /** Add the noise of the tier noise-in-sum, modulo 2^32 as all sums. */
  private withNoise(update: Int32Array): Int32Array {
    const { deviceSigmaSquared } = this.invitation.plan;
    if (!deviceSigmaSquared) return update;
    const noise = new WideGaussian(deviceSigmaSquared, this.member.random).sample(update.length);
    return update.map((value, at) => value + noise[at]!);
  }

  private async train(weights: Floats): Promise<Int32Array> {
    const { updateNorm, units, parameters } = this.invitation.plan;
    let update: Floats;
    try {
      update = await this.trainer(weights);
      return toGrid(update, updateNorm, units);
    } catch (error) {
      if (error instanceof DeviceError) return new Int32Array(parameters);
      throw error;
    }
  }
}
