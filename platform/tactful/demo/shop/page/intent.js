// The intent of this device: a weight for each category, computed in the page.

const FADES = 0.75;

/** The categories of the items that were opened, as long as the page lives. */
export class Intent {
  #opened = /** @type {string[]} */ ([]);

  /** @param {string} category of an item that was opened */
  add(category) {
    this.#opened.push(category);
  }

  clear() {
    this.#opened = [];
  }

  /**
   * Weights that sum to 1, the largest first; each item counts three quarters of the one after it.
   *
   * @returns {Array<[string, number]>}
   */
  weights() {
    /** @type {Map<string, number>} */
    const sums = new Map();
    let weight = 1;
    let total = 0;
    for (const category of [...this.#opened].reverse()) {
      sums.set(category, (sums.get(category) ?? 0) + weight);
      total += weight;
      weight *= FADES;
    }
    return [...sums]
      .map(([category, sum]) => /** @type {[string, number]} */ ([category, sum / total]))
      .sort(([, one], [, other]) => other - one);
  }
}
