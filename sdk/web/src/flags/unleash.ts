// Reader of Unleash's feature format: constraints, segments, dependencies and variants. Strategies that
// choose users by Unleash's own rollout hash are refused by name.

import { ConstraintTest, type Constraint, type UnleashContext, contextValue } from "./constraints.js";
import murmurhash from "murmurhash";
import { isObject } from "./json.js";

export type { Constraint, UnleashContext } from "./constraints.js";

interface Strategy {
  name: string;
  parameters?: Record<string, string>;
  constraints?: Constraint[];
  segments?: number[];
  variants?: WeightedVariant[];
}

interface WeightedVariant {
  name: string;
  weight: number;
  stickiness?: string;
  payload?: VariantPayload;
}

interface Dependency {
  feature: string;
  enabled?: boolean;
  variants?: string[];
}

interface UnleashFeature {
  name: string;
  enabled: boolean;
  strategies?: Strategy[];
  variants?: WeightedVariant[];
  dependencies?: Dependency[];
}

export interface VariantPayload {
  type: string;
  value: string;
}

/** The variant of a feature for one context. */
export interface Variant {
  name: string;
  enabled: boolean;
  feature_enabled: boolean;
  payload?: VariantPayload;
}

/** Features of another format that cannot be read; the message names each feature and its cure. */
export class UnleashError extends Error {
  override readonly name = "UnleashError";
}

const VARIANT_SEED = 86_028_157;

/**
 * Read what Unleash's client API answers: `{"features": […], "segments": […]}`.
 *
 * @param random draws a number in [0, 1) where variants stick to nothing.
 * @throws UnleashError for another form, or for strategies that are not read.
 */
export function readUnleash(document: unknown, random: () => number = Math.random): UnleashFlags {
  if (!isObject(document) || !Array.isArray(document["features"])) {
    throw new UnleashError("no Unleash features: expected an object with the list `features`");
  }
  const state = document as unknown as {
    features: UnleashFeature[];
    segments?: { id: number; constraints: Constraint[] }[];
  };
  const refused = state.features.flatMap(({ name, strategies = [] }) =>
    strategies.filter(isRefused).map((strategy) => `${name}: ${strategy.name}`),
  );
  if (refused.length > 0) {
    const cure = "describe the share of users as an experiment or a rollout of this program instead";
    throw new UnleashError(`strategies that are not read: ${refused.join(", ")}; ${cure}`);
  }
  const segments = new Map((state.segments ?? []).map(({ id, constraints }) => [id, constraints]));
  return new UnleashFlags(new Map(state.features.map((each) => [each.name, each])), segments, random);
}

/** Return whether a strategy does more than its constraints. */
function isRefused({ name, parameters = {} }: Strategy): boolean {
  if (name === "flexibleRollout") return Number(parameters["rollout"]) !== 100;
  return name !== "default" && name !== "userWithId";
}

/** Features of Unleash, evaluated on this device. */
export class UnleashFlags {
  private readonly test = new ConstraintTest();

  constructor(
    private readonly features: ReadonlyMap<string, UnleashFeature>,
    private readonly segments: ReadonlyMap<number, Constraint[]>,
    private readonly random: () => number,
  ) {}

  /** Return whether a feature is on; an unknown one is off. */
  isEnabled(name: string, context: UnleashContext = {}): boolean {
    return this.strategy(name, context) !== undefined;
  }

  /** Return the variant of a feature; `disabled` for none. */
  variant(name: string, context: UnleashContext = {}): Variant {
    const strategy = this.strategy(name, context);
    if (!strategy) return { name: "disabled", enabled: false, feature_enabled: false };
    const feature = this.features.get(name);
    const { parameters = {}, variants: own = [] } = strategy;
    const chosen =
      own.length > 0
        ? this.choose(own, parameters["groupId"] ?? name, parameters["stickiness"], context)
        : this.choose(feature?.variants ?? [], name, undefined, context);
    if (!chosen) return { name: "disabled", enabled: false, feature_enabled: true };
    const payload = chosen.payload && { payload: chosen.payload };
    return { name: chosen.name, enabled: true, feature_enabled: true, ...payload };
  }

  /** Return the first strategy that applies; undefined if the feature is off. */
  private strategy(name: string, context: UnleashContext): Strategy | undefined {
    const feature = this.features.get(name);
    if (!feature?.enabled) return undefined;
    const { dependencies = [], strategies = [] } = feature;
    if (!dependencies.every((each) => this.fulfils(each, context))) return undefined;
    if (strategies.length === 0) return { name: "default" };
    return strategies.find((strategy) => this.applies(strategy, context));
  }

  /** Check a parent; one that itself depends on others never counts, as in Unleash. */
  private fulfils({ feature, enabled = true, variants = [] }: Dependency, context: UnleashContext) {
    const parent = this.features.get(feature);
    if (!parent || (parent.dependencies ?? []).length > 0) return false;
    if (this.isEnabled(feature, context) !== enabled) return false;
    if (!enabled || variants.length === 0) return true;
    return variants.includes(this.variant(feature, context).name);
  }

  private applies(strategy: Strategy, context: UnleashContext): boolean {
    const { name, parameters = {}, constraints = [], segments = [] } = strategy;
    if (name === "userWithId") {
      const ids = (parameters["userIds"] ?? "").split(",").map((id) => id.trim());
      if (!context.userId || !ids.includes(context.userId)) return false;
    }
    const named = segments.map((id) => this.segments.get(id));
    if (named.includes(undefined)) return false;
    return [...constraints, ...named.flatMap((found) => found ?? [])].every((constraint) =>
      this.test.holds(constraint, context),
    );
  }

  /** Choose by weight: the hash of the sticky value decides, as in Unleash. */
  private choose(
    variants: WeightedVariant[],
    group: string,
    inherited: string | undefined,
    context: UnleashContext,
  ): WeightedVariant | undefined {
    const total = variants.reduce((sum, { weight }) => sum + weight, 0);
    if (total <= 0) return undefined;
    const stickiness = inherited ?? variants[0]?.stickiness ?? "default";
    const id = stickyValue(stickiness, context) ?? String(this.random());
    let left = (murmurhash.v3(`${group}:${id}`, VARIANT_SEED) % total) + 1;
    return variants.find(({ weight }) => (left -= weight) <= 0);
  }
}

function stickyValue(stickiness: string, context: UnleashContext): string | undefined {
  if (stickiness === "random") return undefined;
  if (stickiness !== "default") return contextValue(context, stickiness);
  return context.userId ?? context.sessionId;
}
