// Invitation of devices to a run, and the digest of its terms.

import { type Bytes, fromBase64 } from "./bytes.js";
import { DeviceError, require } from "./errors.js";
import { termsDigest } from "./messages.js";
import { Double, pack, type Value } from "./msgpack.js";
import { checkGraph, type Graph } from "./ring.js";

/** Public parameters of a private run that a device needs; the digest covers all of them. */
export interface Plan {
  readonly participations: number;
  readonly separation: number;
  readonly updateNorm: number;
  readonly units: number;
  readonly parameters: number;
  /** Variance of the noise that each device adds on the grid; 0 without. */
  readonly deviceSigmaSquared: bigint;
}

export interface Invitation {
  readonly run: string;
  readonly tier: string;
  readonly plan: Plan;
  readonly categories: readonly string[];
  /** Public Ed25519 key to check enrolments with. */
  readonly authority: Bytes;
  /** Public Ed25519 key to check models with. */
  readonly signer: Bytes;
  readonly learningRate: number;
  readonly batchSize: number;
  readonly proximal: number;
  readonly embedding: number;
  readonly hidden: number;
  /** Smallest number of devices in which two sums may differ, beside 0; 0 allows any. */
  readonly difference: number;
  /** Smallest sum that a device takes part in: that of a group if a round is several sums. */
  readonly fewest: number;
  /** Sparse graph of the sums; undefined if it is complete. */
  readonly graph: Graph | undefined;
  /** Digest of the whole invitation, as the server computes it. */
  readonly terms: Bytes;
}

type Kind = "float" | "int" | "text" | "texts" | "bytes" | keyof typeof PARTS;
/** Name, type and default of a field; `null` leaves a missing field out. */
type Field = readonly [name: string, kind: Kind, otherwise?: unknown];

const PLAN: readonly Field[] = [
  ["epsilon", "float"],
  ["delta", "float"],
  ["rho", "float"],
  ["noise_multiplier", "float"],
  ["participations", "int"],
  ["separation", "int"],
  ["bands", "int"],
  ["rounds", "int"],
  ["cohort", "int"],
  ["report_goal", "int"],
  ["minimum_reports", "int"],
  ["update_norm", "float"],
  ["units", "int"],
  ["parameters", "int"],
  ["sigma_squared", "int"],
  ["step_noise", "float"],
  ["model_noise", "float"],
  ["independent_model_noise", "float"],
  ["device_sigma_squared", "int", 0],
  ["unit", "text", "one device, the whole run (add or remove its updates: zero-out)"],
];
const INVITATION: readonly Field[] = [
  ["run", "text"],
  ["tier", "text"],
  ["plan", "plan"],
  ["categories", "texts"],
  ["authority", "bytes"],
  ["signer", "bytes"],
  ["learning_rate", "float", 1],
  ["batch_size", "int", 16],
  ["proximal", "float", 0],
  ["purpose", "text", "training"],
  ["embedding", "int", 32],
  ["hidden", "int", 32],
  ["difference", "int", null],
  ["bundle", "text", null],
  ["groups", "groups", null],
];
const GROUPS: readonly Field[] = [
  ["size", "int"],
  ["fewest", "int"],
  ["graph", "graph", null],
];
const GRAPH: readonly Field[] = [
  ["neighbours", "int"],
  ["threshold", "int"],
];
/** Fields and name of each part that is a map. */
const PARTS = {
  plan: { fields: PLAN, place: "the plan" },
  groups: { fields: GROUPS, place: "the division into groups" },
  graph: { fields: GRAPH, place: "the graph of a sum" },
} satisfies Record<string, { fields: readonly Field[]; place: string }>;

const TIERS = ["secret", "noise-in-sum"];

/** Read an invitation from the JSON text of the server; throws a `DeviceError`. */
export function readInvitation(json: string): Invitation {
  const fields = typed(parse(json), INVITATION, "the invitation");
  const plan = fields.get("plan") as Map<string, Value>;
  const of = <T>(name: string): T => plain(fields.get(name)) as T;
  const planned = (name: string): number => Number(plain(plan.get(name)));
  const groups = fields.get("groups") as Map<string, Value> | undefined;
  const graph = groups?.get("graph") as Map<string, Value> | undefined;
  const tier = of<string>("tier");
  require(tier !== "clear", "a page sends no update in the clear: use the tier secret");
  require(TIERS.includes(tier), `the invitation has an unknown tier: ${tier}`);
  require(of("purpose") === "training", "a page answers no evaluations yet");
  const invitation = {
    run: of<string>("run"),
    tier,
    plan: {
      participations: planned("participations"),
      separation: planned("separation"),
      updateNorm: planned("update_norm"),
      units: planned("units"),
      parameters: planned("parameters"),
      deviceSigmaSquared: BigInt(plan.get("device_sigma_squared") as number | bigint | string),
    },
    categories: of<string[]>("categories"),
    authority: of<Bytes>("authority"),
    signer: of<Bytes>("signer"),
    learningRate: of<number>("learning_rate"),
    batchSize: of<number>("batch_size"),
    proximal: of<number>("proximal"),
    embedding: of<number>("embedding"),
    hidden: of<number>("hidden"),
    difference: of<number | undefined>("difference") ?? 0,
    fewest: groups ? Number(plain(groups.get("fewest"))) : planned("minimum_reports"),
    graph: graph && graphOf(graph),
    terms: termsDigest(pack(fields)),
  };
  const { plan: bounds, embedding, hidden, batchSize } = invitation;
  const { updateNorm, units, learningRate } = { ...bounds, ...invitation };
  require(
    updateNorm > 0 && learningRate > 0 && units >= 1 && units <= 1 << 24 && batchSize >= 1,
    "the invitation has a setting out of range",
  );
  require(embedding >= 1 && hidden >= 1, "the invitation has a width below 1");
  return invitation;
}

// JSON.parse rounds whole numbers beyond 2^53, and the digest covers each digit: they become texts.
const TOKENS = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
const LONG = /^-?\d{16,}$/;

function parse(json: string): Record<string, unknown> {
  try {
    const quote = (token: string): string => (LONG.test(token) ? `"${token}"` : token);
    return object(JSON.parse(json.replace(TOKENS, quote)));
  } catch {
    throw new DeviceError("the invitation is not JSON: download it from the server");
  }
}

function object(value: unknown): Record<string, unknown> {
  require(typeof value === "object" && value !== null, "a part of the invitation is no object");
  return value as Record<string, unknown>;
}

function typed(
  given: Record<string, unknown>,
  fields: readonly Field[],
  place: string,
): Map<string, Value> {
  const names = new Set(fields.map(([name]) => name));
  const unknown = Object.keys(given).find((name) => !names.has(name));
  require(unknown === undefined, `${place} has a field ${unknown}, which this version lacks`);
  const found = new Map<string, Value>();
  for (const [name, kind, otherwise] of fields) {
    const value = given[name] ?? otherwise;
    if (value === null) continue;
    require(value !== undefined, `${place} lacks ${name}`);
    found.set(name, convert(value, kind, `${name} of ${place}`));
  }
  return found;
}

function convert(value: unknown, kind: Kind, place: string): Value {
  if (isPart(kind)) return typed(object(value), PARTS[kind].fields, PARTS[kind].place);
  if (kind === "float" && typeof value === "number") return new Double(value);
  if (kind === "int" && typeof value === "number" && Number.isSafeInteger(value)) return value;
  if (kind === "int" && typeof value === "string" && /^-?\d+$/.test(value)) {
    const whole = BigInt(value); // one of more than 64 bits is packed as its text
    return whole >= -(2n ** 63n) && whole < 2n ** 64n ? whole : value;
  }
  if (kind === "text" && typeof value === "string") return value;
  if (kind === "bytes" && typeof value === "string") return fromBase64(value);
  if (kind === "texts" && Array.isArray(value) && value.every((text) => typeof text === "string")) {
    return value as string[];
  }
  throw new DeviceError(`${place} has a wrong type`);
}

function isPart(kind: Kind): kind is keyof typeof PARTS {
  return kind in PARTS;
}

function graphOf(part: Map<string, Value>): Graph {
  const of = (name: string): number => Number(part.get(name));
  const graph = { neighbours: of("neighbours"), threshold: of("threshold") };
  checkGraph(graph);
  return graph;
}

function plain(value: Value | undefined): unknown {
  return value instanceof Double ? value.value : value;
}
