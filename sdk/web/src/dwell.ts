// How long a page is in sight, by the Page Visibility API. Nothing is stored, and nothing else is read.

// Beyond it nobody reads: a page was left open.
const LONGEST_MS = 1_800_000;

/** Measures one page, from when it is made. */
export class Dwell {
  /** When the page came into sight; undefined while it is hidden. */
  private since: number | undefined;
  private reported = 0;

  /**
   * @param report is called with the milliseconds of each stay in sight, when it ends; of one page
   *   at most half an hour in all.
   */
  constructor(private readonly report: (milliseconds: number) => void) {
    this.show();
  }

  /** Milliseconds in sight so far. */
  get total(): number {
    const stay = this.since === undefined ? 0 : performance.now() - this.since;
    return Math.round(Math.min(this.reported + stay, LONGEST_MS));
  }

  /** The page may be in sight again. */
  show(): void {
    if (document.visibilityState === "visible") this.since ??= performance.now();
  }

  /** The page is hidden or left; of two such calls the second reports nothing. */
  hide(): void {
    const { total } = this;
    const stay = total - this.reported;
    this.since = undefined;
    this.reported = total;
    if (stay > 0) this.report(stay);
  }
}
