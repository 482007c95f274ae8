// Data of a device in IndexedDB: visits, keys and the ledger. No function here is called before consent.

import { sha256 } from "@noble/hashes/sha2.js";
import { type Bytes, hex } from "./bytes.js";
import { DeviceError, require } from "./errors.js";
import type { Plan } from "./invitation.js";
import type { Session } from "./messages.js";
import type { IdentityKey } from "./primitives.js";

const VERSION = 1;
const DAY_MS = 86_400_000;
const VISIT_MS = 30 * 60_000;
const RETENTION_DAYS = 365;
const MOST_VISITS = 2_000;
const DIGEST_DIGITS = 32;
const STORES = ["visits", "settings", "sessions", "runs", "sums"] as const;

/** Settings that are deleted with the consent. */
const PERSONAL = ["identity", "enrolment", "model", "fired"] as const;

type Name = (typeof STORES)[number];
type Stores = (name: Name) => IDBObjectStore;

interface Visit {
  at: number;
  last: number;
  categories: string[];
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
  /** Names of triggers that fired and are not rearmed. */
  fired: string[];
  /** UTC day, counted from 1970, and milliseconds of computing on it. */
  spent: { day: number; ms: number };
}

/**
 * Device of one origin.
 *
 *   visits    at, last (milliseconds), categories in order
 *   settings  identity, enrolment, model, reached, fired, spent
 *   sessions  nonces of joined sessions
 *   runs      by run: times (participations), latest (round joined last)
 *   sums      run, and digests of the other devices of a sum
 */
export class DeviceStore {
  private constructor(
    private readonly database: IDBDatabase,
    private readonly now: () => number,
  ) {}

  /** Open the database or create it. */
  static async open(name: string, now: () => number = Date.now): Promise<DeviceStore> {
    const opening = requestOf(name);
    opening.onupgradeneeded = () => {
      for (const store of STORES) {
        const numbered = store === "visits" || store === "sums";
        opening.result.createObjectStore(store, { autoIncrement: numbered });
      }
    };
    return new DeviceStore(await result(opening).catch(refused), now);
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
      if (newest && visit && now - visit.last < VISIT_MS) {
        const categories = [...visit.categories, category];
        await result(newest.update({ ...visit, last: now, categories }));
        return;
      }
      await result(visits.add({ at: now, last: now, categories: [category] }));
      await prune(visits, now);
    });
  }

  /** Return the categories of each visit, oldest first, and whether it goes on. */
  async visits(): Promise<{ categories: string[]; open: boolean }[]> {
    return this.write(["visits"], async (of) => {
      const now = this.now();
      await prune(of("visits"), now);
      const visits = (await result(of("visits").getAll())) as Visit[];
      return visits.map(({ categories, last }) => ({ categories, open: now - last < VISIT_MS }));
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

  /** Return the milliseconds of computing on this UTC day. */
  async spentToday(): Promise<number> {
    const spent = await this.get("spent");
    return spent?.day === this.day() ? spent.ms : 0;
  }

  /** Add milliseconds of computing to this UTC day. */
  spend(ms: number): Promise<void> {
    const day = this.day();
    return this.write(["settings"], async (of) => {
      const spent = (await result(of("settings").get("spent"))) as Settings["spent"] | undefined;
      const before = spent?.day === day ? spent.ms : 0;
      await result(of("settings").put({ day, ms: before + ms }, "spent"));
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
    return this.write(["visits", "settings"], async (of) => {
      await result(of("visits").clear());
      // The time spent stays: withdrawing and giving consent again must not double it.
      for (const name of PERSONAL) await result(of("settings").delete(name));
    });
  }

  close(): void {
    this.database.close();
  }

  private day(): number {
    return Math.floor(this.now() / DAY_MS);
  }

  private async write<T>(names: Name[], work: (of: Stores) => Promise<T>): Promise<T> {
    // A participation must be on the disk before the server gets the update; a visit need not.
    const durability = names.join() === "visits" ? "relaxed" : "strict";
    const transaction = this.database.transaction(names, "readwrite", { durability });
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
      throw error;
    }
  }
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

function refused(error: unknown): never {
  const cause = (error as Error | null)?.name;
  throw new DeviceError(`the browser refuses to store data of this site (${cause}): a private window?`);
}

function result<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new DeviceError("storage failed"));
  });
}
