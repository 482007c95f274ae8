// Device side of a secure sum: it answers the questions of the stages in order, each once.

import { chacha20poly1305 } from "@noble/ciphers/chacha.js";
import { type Bytes, concat, equal } from "./bytes.js";
import { DeviceError, require } from "./errors.js";
import {
  type Advert,
  advertText,
  agree,
  ascending,
  type ByDevice,
  checkAdvert,
  decodeByDevice,
  decodeRoster,
  decodeSurvivors,
  encodeAdvert,
  encodeAgreement,
  encodeBoxes,
  encodeMasked,
  encodeOpened,
  type Enrolment,
  FEWEST_DEVICES,
  indexRoster,
  ownMask,
  pairMask,
  rosterDigest,
  seedCommitment,
  type Session,
  survivorsText,
  thresholdOf,
} from "./messages.js";
import type { AgreementKey, Identity, Primitives } from "./primitives.js";
import { checkSurvivors, type Graph, type Ring, ringOf } from "./ring.js";
import { type Random, SHARE_BYTES, split } from "./sharing.js";

const NONCE = new Uint8Array(12);
const ENDED = -9;

/** Method that answers a stage. */
export type Step = "advertise" | "share" | "settle" | "mask" | "confirm" | "open";

export interface Member {
  readonly enrolment: Enrolment;
  readonly identity: Identity;
  /** Public Ed25519 key to check enrolments with. */
  readonly authority: Bytes;
  /** Smallest sum that the device takes part in, 3 or more. */
  readonly fewest: number;
  /** Sparse graph of the invitation; without one the graph is complete. */
  readonly graph?: Graph | undefined;
  readonly random: Random;
  readonly primitives: Primitives;
}

/**
 * One device in one session.
 *
 * The guarantee is that of `SecureSumDevice` in Python: a server learns at most the sum with the
 * vectors of `fewest - 1` or more other enrolled devices. Call the methods in order, each at most
 * once. An error in one ends the session and deletes its keys.
 */
export class SecureSum {
  /** Methods that answer the stages, in order. */
  readonly steps: readonly Step[] = ["advertise", "share", "mask", "confirm", "open"];
  protected readonly me: bigint;
  protected members = new Map<bigint, Advert>();
  protected context: Bytes = new Uint8Array();
  protected ring: Ring = { circles: new Map(), shares: 0, least: 0 };
  protected dealers = new Set<bigint>();
  private advert: Advert | undefined;
  private survivors = new Set<bigint>();
  private shares = new Map<bigint, [Bytes, Bytes]>();
  private answered = 0;

  /** Use `begin`, which draws the keys. */
  constructor(
    private readonly session: Session,
    protected readonly member: Member,
    private boxKey: AgreementKey | undefined,
    private maskKey: AgreementKey | undefined,
    private readonly seed: Bytes,
  ) {
    this.me = member.enrolment.device;
  }

  /** Draw the keys of a session that was claimed before. */
  static async begin<Sum extends SecureSum>(
    this: new (...parts: ConstructorParameters<typeof SecureSum>) => Sum,
    session: Session,
    member: Member,
  ): Promise<Sum> {
    const sound = session.nonce.length === 32 && session.size >= 1;
    require(sound, "a session needs a nonce of 32 bytes and at least one value");
    const { random, primitives } = member;
    const box = await primitives.agreementKey(random(32));
    const mask = await primitives.agreementKey(random(32));
    return new this(session, member, box, mask, random(32));
  }

  /** Return the first answer: the signed keys of this session. */
  advertise(): Promise<Bytes> {
    return this.step("advertise", async () => {
      const { enrolment, identity } = this.member;
      const keys = {
        enrolment,
        boxKey: this.keys().box.publicKey,
        maskKey: this.keys().mask.publicKey,
        seedDigest: seedCommitment(this.session, this.seed),
      };
      this.advert = { ...keys, signature: await identity.sign(advertText(this.session, keys)) };
      return encodeAdvert(this.advert);
    });
  }

  /** Return the second answer: encrypted shares of the secrets for each other member. */
  share(roster: Uint8Array): Promise<Bytes> {
    return this.step("share", async () => {
      const { authority, primitives, random } = this.member;
      const listed = decodeRoster(roster);
      this.members = await indexRoster(listed, (advert) =>
        checkAdvert(advert, this.session, authority, primitives),
      );
      const own = this.members.get(this.me);
      require(
        own && this.advert && equal(encodeAdvert(own), encodeAdvert(this.advert)),
        "the roster does not list this device with its own keys",
      );
      this.checkSize(this.members.size, "members of the roster");
      this.context = rosterDigest(this.session, listed);
      this.ring = ringOf(this.context, [...this.members.keys()], this.member.graph);
      const holders = this.ring.circles.get(this.me)!;
      const secrets = [this.seed, this.keys().mask.secret];
      const [seeds, keys] = secrets.map((secret) =>
        split(secret, this.ring.shares, holders.length, random),
      ) as [Bytes[], Bytes[]];
      const sealed: ByDevice = new Map();
      for (const [at, device] of holders.entries()) {
        const shares: [Bytes, Bytes] = [seeds[at]!, keys[at]!];
        if (device === this.me) this.shares.set(device, shares);
        else {
          const box = await this.box(this.me, device, device);
          sealed.set(device, box.encrypt(concat(...shares)) as Bytes);
        }
      }
      return encodeBoxes(sealed);
    });
  }

  /** Return the answer with whole numbers of 32 bits plus all masks, modulo 2^32. */
  mask(boxes: Uint8Array, vector: Int32Array): Promise<Bytes> {
    return this.step("mask", async () => {
      const received = decodeByDevice(boxes);
      const known = [...received.keys()].every((sender) => this.members.has(sender));
      require(
        known && !received.has(this.me),
        "shares are from a device that is not on the roster",
      );
      this.checkVector(vector);
      this.dealers = new Set([...received.keys(), this.me]);
      this.checkSize(this.dealers.size, "dealers of shares");
      await this.keepShares(received);
      return this.masked(vector, received.keys());
    });
  }

  /** Return the signature over the survivors. `agreed` may refuse them. */
  confirm(
    survivors: Uint8Array,
    agreed: (partners: Bytes[]) => Promise<void> = async () => {},
  ): Promise<Bytes> {
    return this.step("confirm", async () => {
      const listed = decodeSurvivors(survivors);
      this.survivors = new Set(listed);
      require(
        listed.length === this.survivors.size && listed.every((device) => this.dealers.has(device)),
        "the survivors are not distinct members who dealt shares",
      );
      require(
        this.survivors.has(this.me),
        "this device sent its vector and is not among the survivors",
      );
      this.checkSize(this.survivors.size, "survivors");
      checkSurvivors(this.ring, this.survivors);
      const others = listed.filter((device) => device !== this.me);
      await agreed(others.map((device) => this.members.get(device)!.enrolment.identity));
      return encodeAgreement(await this.member.identity.sign(this.survivorsText()));
    });
  }

  /** Return the last answer: of each member either the seed or the mask key, never both. */
  open(agreements: Uint8Array): Promise<Bytes> {
    return this.step("open", async () => {
      const signatures = decodeByDevice(agreements);
      await this.checkSigned(signatures, this.survivors, this.survivorsText(), "survivors");
      const opened = (which: 0 | 1, members: Iterable<bigint>): ByDevice =>
        new Map(
          ascending(members).flatMap((member) => {
            const shares = this.shares.get(member);
            return shares ? [[member, shares[which]] as const] : [];
          }),
        );
      const dropped = [...this.dealers].filter((device) => !this.survivors.has(device));
      const answer = encodeOpened(opened(0, this.survivors), opened(1, dropped));
      this.deleteKeys();
      return answer;
    });
  }

  protected checkVector(vector: Int32Array): void {
    const { size } = this.session;
    require(vector.length === size, `the session sums vectors of ${size} values`);
  }

  /** Check that enough of the signers signed a text. */
  protected async checkSigned(
    signatures: ByDevice,
    signers: ReadonlySet<bigint>,
    text: Bytes,
    group: string,
  ): Promise<void> {
    let agreed = 0;
    for (const [device, signature] of signatures) {
      if (!signers.has(device)) continue;
      const { identity } = this.members.get(device)!.enrolment;
      if (await this.member.primitives.verify(identity, signature, text)) agreed++;
    }
    this.checkSize(agreed, `${group} who signed the same list`);
  }

  protected checkSize(count: number, group: string): void {
    const fewest = Math.max(FEWEST_DEVICES, this.member.fewest);
    const needed = Math.max(thresholdOf(this.members.size), fewest);
    require(count >= needed, `there are ${count} ${group}, and ${needed} are needed`);
  }

  /** Open boxes by sender and keep the shares in them. */
  protected async keepShares(received: ByDevice): Promise<void> {
    for (const [sender, sealed] of received) await this.receive(sender, sealed);
  }

  /** Return a vector plus the own mask and those with other dealers, modulo 2^32. */
  protected async masked(vector: Int32Array, others: Iterable<bigint>): Promise<Bytes> {
    const { size } = this.session;
    const total = ownMask(this.seed, this.context, size);
    for (let i = 0; i < size; i++) total[i]! += vector[i]!;
    // A pair mask is added by the smaller number and subtracted by the other.
    for (const other of others) {
      const public_ = this.members.get(other)!.maskKey;
      const pair = await pairMask(this.keys().mask, public_, this.context, size);
      const sign = this.me < other ? 1 : -1;
      for (let i = 0; i < size; i++) total[i]! += sign * pair[i]!;
    }
    return encodeMasked(new Uint8Array(total.buffer as ArrayBuffer, total.byteOffset, 4 * size));
  }

  private async receive(sender: bigint, sealed: Bytes): Promise<void> {
    const box = await this.box(sender, this.me, sender);
    let shares: Bytes;
    try {
      shares = box.decrypt(sealed) as Bytes;
    } catch {
      return; // a missing share is tolerated: the threshold is two thirds
    }
    if (shares.length === 2 * SHARE_BYTES) {
      this.shares.set(sender, [shares.slice(0, SHARE_BYTES), shares.slice(SHARE_BYTES)]);
    }
  }

  private async box(sender: bigint, receiver: bigint, other: bigint) {
    const { boxKey } = this.members.get(other)!;
    const purpose = `box ${sender} ${receiver}`;
    const key = await agree(this.keys().box, boxKey, purpose, this.context);
    return chacha20poly1305(key, NONCE, this.context);
  }

  private keys(): { box: AgreementKey; mask: AgreementKey } {
    require(this.boxKey && this.maskKey, "the session ended");
    return { box: this.boxKey, mask: this.maskKey };
  }

  private survivorsText(): Bytes {
    return survivorsText(this.context, this.dealers, this.survivors);
  }

  protected async step(name: Step, answer: () => Promise<Bytes>): Promise<Bytes> {
    const { answered } = this;
    this.answered = ENDED; // also while it answers, so that a second call is refused
    try {
      if (this.steps[answered] !== name) {
        const count = this.steps.length === 6 ? "six" : "five";
        throw new DeviceError(`a secure sum asks ${count} questions in order, each once`);
      }
      const data = await answer();
      this.answered = answered + 1;
      return data;
    } catch (error) {
      this.deleteKeys();
      throw error;
    }
  }

  private deleteKeys(): void {
    this.shares.clear();
    this.seed.fill(0);
    this.boxKey?.secret.fill(0);
    this.maskKey?.secret.fill(0);
    this.boxKey = this.maskKey = undefined;
  }
}
