// Data of a device in IndexedDB: visits, keys and the ledger. No function here is called before consent.

import { sha256 } from "@noble/hashes/sha2.js";
import { type Bytes, hex } from "./bytes.js";
import { DeviceError, require } from "./errors.js";
import type { Plan } from "./invitation.js";
import type { Session } from "./messages.js";
import type { IdentityKey } from "./primitives.js";
import type { Telling, TriggerState } from "./triggers.js";

const VERSION = 1;
const DAY_MS = 86_400_000;
const VISIT_MS = 30 * 60_000;
const RETENTION_DAYS = 365;
const MOST_VISITS = 2_000;
const DIGEST_DIGITS = 32;
const STORES = ["visits", "settings", "sessions", "runs", "sums"] as const;

/** Settings that are deleted with the consent. */
const PERSONAL = ["identity", "enrolment", "model", "fired", "secret", "telling", "generation"] as const;

type Name = (typeof STORES)[number];
type Stores = (name: Name) => IDBObjectStore;

interface Visit {
  at: number;
  last: number;
  categories: string[];
}

/** Visit as other modules read it. */
export interface StoredVisit {
  /** A later visit has a higher one. */
  readonly number: number;
  /** Seconds since the epoch. */
  readonly at: number;
  readonly categories: readonly string[];
}

interface Run {
  times: number;
  latest: number;
}

/** Key and model of the device, and what it has used today. */
interface Settings {
  identity: IdentityKey;
  enrolment: Bytes;
  /** Signed package of the installed model, and the highest version that was installed, by signer. */
  model: Bytes;
  reached: Record<string, number>;
  /** State of the triggers. */
  fired: TriggerState;
  /** Random bytes that draw the holdout of a visitor without an id. */
  secret: Bytes;
  /** Consent to tell a server of foresights. */
  telling: Telling;
  /** Random name of the data, deleted with the consent: a tab with another one writes nothing. */
  generation: string;
  /** UTC day, counted from 1970, and milliseconds of computing on it. */
  spent: { day: number; ms: number };
}

/** Refusal to write after another tab deleted the data. */
export class DataDeleted extends DeviceError {}

/**
 * Device of one origin.
 *
 *   visits    at, last (milliseconds), categories in order
 *   settings  identity, enrolment, model, reached, fired, secret, telling, generation, spent
 *   sessions  nonces of joined sessions
 *   runs      by run: times (participations), latest (round joined last)
 *   sums      run, and digests of the other devices of a sum
 */
export class DeviceStore {
  private generation: string | undefined;

  private constructor(
    private readonly database: IDBDatabase,
    private readonly now: () => number,
  ) {}

  /** Open the database or create it. */
  static async open(
    name: string,
    { now = Date.now, closed = () => {} }: { now?: () => number; closed?: () => void } = {},
  ): Promise<DeviceStore> {
    const opening = requestOf(name);
    opening.onupgradeneeded = () => {
      for (const store of STORES) {
        const numbered = store === "visits" || store === "sums";
        opening.result.createObjectStore(store, { autoIncrement: numbered });
      }
    };
    const store = new DeviceStore(await result(opening).catch(refused), now);
    // The visitor empties the storage, or a newer version of this module opens it in another tab.
    store.database.onversionchange = () => {
      store.close();
      closed();
    };
    store.database.onclose = closed;
    store.generation = await store.transact(["settings"], async (of) => {
      const known = (await result(of("settings").get("generation"))) as string | undefined;
      const drawn = known ?? hex(crypto.getRandomValues(new Uint8Array(8)));
      if (!known) await result(of("settings").put(drawn, "generation"));
      return drawn;
    });
    return store;
  }

  /** Open the database; undefined if there is none, and none is created. */
  static async existing(name: string): Promise<DeviceStore | undefined> {
    const opening = requestOf(name);
    let missing = false;
    opening.onupgradeneeded = () => {
      missing = true;
      opening.transaction?.abort();
    };
    try {
      return new DeviceStore(await result(opening), Date.now);
    } catch (error) {
      return missing ? undefined : refused(error);
    }
  }

  /** Add a category to the current visit, which ends after half an hour without any. */
  record(category: string): Promise<void> {
    return this.write(["visits"], async (of) => {
      const visits = of("visits");
      const now = this.now();
      const newest = await result(visits.openCursor(null, "prev"));
      const visit = newest?.value as Visit | undefined;
      if (newest && visit && isOpen(visit, now)) {
        const categories = [...visit.categories, category];
        await result(newest.update({ ...visit, last: now, categories }));
        return;
      }
      await result(visits.add({ at: now, last: now, categories: [category] }));
      await prune(visits, now);
    });
  }

  /** Return all visits by time, and whether the latest one goes on. */
  async visits(): Promise<{ visits: StoredVisit[]; open: boolean }> {
    return this.write(["visits"], async (of) => {
      const now = this.now();
      await prune(of("visits"), now);
      const numbers = (await result(of("visits").getAllKeys())) as number[];
      const stored = (await result(of("visits").getAll())) as Visit[];
      const newest = stored[stored.length - 1];
      const visits = stored.map(({ at, categories }, place) => {
        return { number: numbers[place]!, at: at / 1000, categories };
      });
      visits.sort((a, b) => a.at - b.at);
      return { visits, open: newest !== undefined && isOpen(newest, now) };
    });
  }

  /** Store a newer model of a signer; throws a `DeviceError` for an older one. */
  install(data: Bytes, signer: string, version: number): Promise<void> {
    return this.write(["settings"], async (of) => {
      const settings = of("settings");
      const reached = ((await result(settings.get("reached"))) ?? {}) as Settings["reached"];
      const before = reached[signer] ?? 0;
      // After consent was withdrawn, the version that was reached may come back.
      const missing = (await result(settings.getKey("model"))) === undefined;
      require(
        version > before || (version === before && missing),
        `version ${version} of the model is not newer than ${before}, which was installed`,
      );
      await result(settings.put({ ...reached, [signer]: version }, "reached"));
      await result(settings.put(data, "model"));
    });
  }

  get<K extends keyof Settings>(name: K): Promise<Settings[K] | undefined> {
    return this.write(["settings"], (of) => result(of("settings").get(name)));
  }

  put<K extends keyof Settings>(name: K, value: Settings[K]): Promise<void> {
    return this.write(["settings"], async (of) => void (await result(of("settings").put(value, name))));
  }

  /** Replace a setting in one transaction, so that two tabs do not overwrite each other; return it. */
  update<K extends keyof Settings>(
    name: K,
    change: (before: Settings[K] | undefined) => Settings[K],
  ): Promise<Settings[K]> {
    return this.write(["settings"], async (of) => {
      const before = (await result(of("settings").get(name))) as Settings[K] | undefined;
      const after = change(before);
      await result(of("settings").put(after, name));
      return after;
    });
  }

  /** Return the milliseconds of computing on this UTC day. */
  async spentToday(): Promise<number> {
    return this.ofToday(await this.get("spent")).ms;
  }

  /** Add milliseconds of computing to this UTC day. */
  async spend(ms: number): Promise<void> {
    await this.update("spent", (spent) => {
      const today = this.ofToday(spent);
      return { ...today, ms: today.ms + ms };
    });
  }

  /** Join a session, durably: this round and earlier ones are closed to this device. */
  join(session: Session, plan: Plan): Promise<void> {
    return this.write(["sessions", "runs"], async (of) => {
      const nonce = hex(session.nonce);
      const known = await result(of("sessions").getKey(nonce));
      require(known === undefined, "this device took part in that session before");
      const run = await runOf(of, session, plan);
      require(
        session.round - run.latest >= plan.separation,
        `rounds of a device must be at least ${plan.separation} apart by its plan`,
      );
      await result(of("sessions").put(true, nonce));
      await result(of("runs").put({ ...run, latest: session.round }, session.run));
    });
  }

  /** Charge one participation for a joined session, durably. */
  charge(session: Session, plan: Plan): Promise<void> {
    return this.write(["runs"], async (of) => {
      const run = await runOf(of, session, plan);
      await result(of("runs").put({ ...run, times: run.times + 1 }, session.run));
    });
  }

  /** Store the other devices of a sum; refuse one that differs from an earlier one in few devices. */
  async agree(session: Session, partners: readonly Bytes[], fewest: number): Promise<void> {
    if (!fewest) return;
    const digests = partners.map((key) => hex(sha256(key)).slice(0, DIGEST_DIGITS)).sort();
    await this.write(["sums"], async (of) => {
      const sums = (await result(of("sums").getAll())) as { run: string; partners: string[] }[];
      for (const sum of sums.filter(({ run }) => run === session.run)) {
        const earlier = new Set(sum.partners);
        const shared = digests.filter((digest) => earlier.has(digest)).length;
        const count = digests.length + earlier.size - 2 * shared;
        require(
          count === 0 || count >= fewest,
          `this sum and an earlier one of this device differ in ${count} devices, and ${fewest}` +
            " are needed: their difference would show too much",
        );
      }
      await result(of("sums").add({ run: session.run, partners: digests }));
    });
  }

  /** Delete visits, keys and model; the ledger of participations stays. */
  wipe(): Promise<void> {
    return this.transact(["visits", "settings"], async (of) => {
      await result(of("visits").clear());
      // The time spent stays: withdrawing and giving consent again must not double it.
      for (const name of PERSONAL) await result(of("settings").delete(name));
    });
  }

  close(): void {
    this.database.close();
  }

  /** Return the time spent on this day; of tomorrow, too, if the clock went back over midnight. */
  private ofToday(spent: Settings["spent"] | undefined): Settings["spent"] {
    const day = Math.floor(this.now() / DAY_MS);
    return spent && (spent.day === day || spent.day === day + 1) ? spent : { day, ms: 0 };
  }

  /** Do work in one transaction, unless another tab deleted the data. */
  private write<T>(names: Name[], work: (of: Stores) => Promise<T>): Promise<T> {
    return this.transact(names, async (of) => {
      const current = (await result(of("settings").get("generation"))) as string | undefined;
      if (current !== this.generation) throw new DataDeleted("the data of this device were deleted");
      return work(of);
    });
  }

  private async transact<T>(names: Name[], work: (of: Stores) => Promise<T>): Promise<T> {
    // A participation must be on the disk before the server gets the update; a visit need not.
    const durability = names.join() === "visits" ? "relaxed" : "strict";
    let transaction: IDBTransaction;
    try {
      const all = [...new Set<Name>([...names, "settings"])];
      transaction = this.database.transaction(all, "readwrite", { durability });
    } catch (error) {
      return refused(error); // it was closed
    }
    const done = new Promise<void>((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error ?? new DeviceError("storage failed"));
    });
    try {
      const value = await work((name) => transaction.objectStore(name));
      await done;
      return value;
    } catch (error) {
      done.catch(() => {}); // `error` is the cause
      try {
        transaction.abort();
      } catch {
        // It was aborted already.
      }
      if (error instanceof DeviceError) throw error;
      return refused(transaction.error ?? error);
    }
  }
}

/** Return whether a visit goes on; one that a jump of the clock moved away is over. */
function isOpen({ last }: Visit, now: number): boolean {
  return Math.abs(now - last) < VISIT_MS;
}

async function runOf(of: Stores, session: Session, plan: Plan): Promise<Run> {
  const known = (await result(of("runs").get(session.run))) as Run | undefined;
  const run = known ?? { times: 0, latest: -Infinity };
  require(
    run.times < plan.participations,
    `this device took part ${run.times} times, the maximum of its plan`,
  );
  return run;
}

async function prune(visits: IDBObjectStore, now: number): Promise<void> {
  let left = (await result(visits.count())) - MOST_VISITS;
  const oldest = now - RETENTION_DAYS * DAY_MS;
  const walk = visits.openCursor();
  for (let at = await result(walk); at; at = await result(walk)) {
    if (left-- <= 0 && (at.value as Visit).last >= oldest) return;
    await result(at.delete());
    at.continue();
  }
}

function requestOf(name: string): IDBOpenDBRequest {
  try {
    return indexedDB.open(name, VERSION);
  } catch (error) {
    return refused(error);
  }
}

const CAUSES: Record<string, string> = {
  QuotaExceededError: "its storage is full",
  VersionError: "a newer version of this page stored data: load the page again",
  InvalidStateError: "its storage was closed or deleted, or this is a private window",
};

function refused(error: unknown): never {
  const name = (error as Error | null)?.name ?? "";
  const cause = CAUSES[name] ?? "a private window?";
  throw new DeviceError(`the browser refuses to store data of this site (${name}): ${cause}`);
}

function result<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new DeviceError("storage failed"));
  });
}
