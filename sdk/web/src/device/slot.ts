// Installed model of a device: only newer ones of the run replace it.

import { type Bytes, hex } from "./bytes.js";
import { require } from "./errors.js";
import type { Invitation } from "./invitation.js";
import { Model } from "./model.js";
import { openPackage, type Packaged } from "./package.js";
import type { Primitives } from "./primitives.js";
import type { DeviceStore } from "./store.js";
import type { Vocabulary } from "./tokens.js";

/** Bytes of a package beside the weights, at most. */
const MOST_MORE = 1_024;

export class ModelSlot {
  constructor(
    private readonly store: DeviceStore,
    private readonly invitation: Invitation,
    private readonly vocabulary: Vocabulary,
    private readonly by: Primitives,
  ) {}

  /** Return the installed model of the signer in the invitation; undefined without one. */
  async installed(): Promise<Packaged | undefined> {
    const data = await this.store.get("model");
    // One of another run, or of a changed catalogue, is as good as none.
    return data && this.open(data).catch(() => undefined);
  }

  /**
   * Install a model if it is signed, newer than all that were installed, fits the invitation, and is
   * accepted. Throws a `DeviceError` else; the installed one is unchanged.
   */
  async install(data: Bytes, accept: (model: Packaged) => boolean): Promise<void> {
    const { embedding, hidden } = this.invitation;
    const most = 4 * new Model(this.vocabulary.size, embedding, hidden).size + MOST_MORE;
    // Before it is read: a signature is computed over all of it.
    require(data.length <= most, `the package has ${data.length} bytes, and a model of the run ${most} at most`);
    const model = await this.open(data);
    require(
      model.model.embedding === embedding && model.model.hidden === hidden,
      "the widths of the model are not those of the invitation: use both of one run",
    );
    const works = model.model.predict(model.weights, []).every(Number.isFinite);
    require(works && accept(model), "the model is worse on this device than allowed");
    await this.store.install(data, hex(this.invitation.signer), model.version);
  }

  private open(data: Bytes): Promise<Packaged> {
    return openPackage(data, this.invitation.signer, this.vocabulary, this.by);
  }
}
