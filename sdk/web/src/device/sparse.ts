// Secure sum over a sparse graph, protocol 3: six questions, and work in proportion to the neighbours.

import type { Bytes } from "./bytes.js";
import { require } from "./errors.js";
import { ascending, dealersText, decodeDealt, decodeSurvivors, encodeAgreement } from "./messages.js";
import { SecureSum, type Step } from "./session.js";

/**
 * One device in one session over a sparse graph, as `SparseSumDevice` in Python.
 *
 * The server could hide dealers from one member, which would then mask with few others. So all members
 * sign the list of dealers before a vector leaves them.
 */
export class SparseSum extends SecureSum {
  override readonly steps: readonly Step[] = ["advertise", "share", "settle", "mask", "confirm", "open"];

  /** Return the third answer: the signature over the dealers of shares. */
  settle(dealers: Uint8Array): Promise<Bytes> {
    return this.step("settle", async () => {
      const listed = decodeSurvivors(dealers);
      this.dealers = new Set(listed);
      require(
        listed.length === this.dealers.size && listed.every((device) => this.members.has(device)),
        "the dealers of shares are not distinct members",
      );
      require(
        this.dealers.has(this.me),
        "this device dealt shares and is not among the dealers",
      );
      this.checkSize(this.dealers.size, "dealers of shares");
      return encodeAgreement(await this.member.identity.sign(this.dealersText()));
    });
  }

  /** Return the fourth answer: the vector plus its own mask and those with neighbours. */
  override mask(dealt: Uint8Array, vector: Int32Array): Promise<Bytes> {
    return this.step("mask", async () => {
      const { signatures, sealed } = decodeDealt(dealt);
      this.checkVector(vector);
      await this.checkSigned(signatures, this.dealers, this.dealersText(), "dealers");
      const circle = this.ring.circles.get(this.me)!;
      const neighbours = circle.filter((other) => other !== this.me && this.dealers.has(other));
      require(
        [...sealed.keys()].every((sender) => neighbours.includes(sender)),
        "shares are from a device that is no neighbour",
      );
      await this.keepShares(sealed);
      // Also with those whose box is missing: the server must not choose who masks.
      return this.masked(vector, ascending(neighbours));
    });
  }

  private dealersText(): Bytes {
    return dealersText(this.context, this.dealers);
  }
}
