// When a device may compute: while the page is idle, on a charger or within its seconds of a day.

import type { Pause } from "./training.js";

const QUIET_MS = 5_000;
const SLICE_MS = 8;
const LONGEST_IDLE_MS = 1_000;
const INPUT = ["pointerdown", "pointermove", "keydown", "scroll", "touchstart", "wheel"] as const;

interface Battery {
  readonly charging: boolean;
}

/** State of the page and of the machine. */
export interface Surroundings {
  /** Return whether the visitor does nothing on the page. */
  quiet(): boolean;
  /** Return whether the machine is on a charger; undefined if the browser does not know it. */
  charging(): Promise<boolean | undefined>;
  /** Wait until the browser has time. */
  idle(): Promise<void>;
  close(): void;
}

/** Return the surroundings of this page; it listens to the input of the visitor until closed. */
export function watchPage(): Surroundings {
  let active = performance.now();
  const note = (): void => void (active = performance.now());
  const options = { passive: true, capture: true };
  for (const type of INPUT) window.addEventListener(type, note, options);
  return {
    quiet: () => document.hidden || performance.now() - active >= QUIET_MS,
    async charging() {
      const { getBattery } = navigator as { getBattery?: () => Promise<Battery> };
      try {
        return (await getBattery?.call(navigator))?.charging;
      } catch {
        return undefined; // refused by the policy of the page
      }
    },
    idle: () =>
      new Promise((resolve) => {
        // Hidden pages get idle callbacks and timers once a second or less; messages come at once.
        if (document.hidden || typeof requestIdleCallback === "undefined") {
          const { port1, port2 } = new MessageChannel();
          port1.onmessage = () => {
            port1.close();
            resolve();
          };
          port2.postMessage(null);
        } else requestIdleCallback(() => resolve(), { timeout: LONGEST_IDLE_MS });
      }),
    close() {
      for (const type of INPUT) window.removeEventListener(type, note, options);
    },
  };
}

/** Return whether a device may begin a round now. */
export async function mayBegin(
  surroundings: Surroundings,
  spentMs: number,
  secondsPerDay: number,
): Promise<boolean> {
  if (!surroundings.quiet()) return false;
  const charging = await surroundings.charging();
  return charging ?? spentMs < 1000 * secondsPerDay;
}

/** Time of computing, in slices between which the browser may do other work. */
export class Meter {
  private spent = 0;
  private begun = performance.now();

  constructor(private readonly surroundings: Surroundings) {}

  /** Wait for the browser if the slice is long enough. */
  readonly pause: Pause = async () => {
    const slice = performance.now() - this.begun;
    if (slice < SLICE_MS) return;
    this.spent += slice;
    await this.surroundings.idle();
    this.begun = performance.now();
  };

  /** Return the milliseconds so far, without the pauses. */
  total(): number {
    return this.spent + performance.now() - this.begun;
  }
}
