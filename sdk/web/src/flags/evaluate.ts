// Evaluation of flags: rules in their order, experiments and prerequisites. The results are those of
// GrowthBook's published cases, and those of `tactful_bandits.flags` in Python.

import { fulfils } from "./condition.js";
import { bucket, bucketRanges, chooseArm, inNamespace, inRange } from "./hash.js";
import { hasOwn, type Json, type JsonObject, toText } from "./json.js";
import type { Experiment, Filter, ParentCondition, Payload, Rule } from "./model.js";
import { armKey, keepArm, keptArm, type StickyArms, type Unit } from "./sticky.js";

/** Data that an evaluation reads, and the places that it writes to. */
export interface Context {
  payload: Payload;
  attributes: JsonObject;
  /** Arms that units keep; none are kept if left out. */
  sticky?: StickyArms | undefined;
  /** Arms by experiment, for a preview; they count as no exposure. */
  forced?: Readonly<Record<string, number>> | undefined;
  /** Address of the page; `?KEY=1` forces an arm for a preview. */
  url?: string | undefined;
  /** Whether only forced arms are given. */
  preview?: boolean | undefined;
  /** Whether experiments run at all; true if left out. */
  enabled?: boolean | undefined;
}

export type Source =
  | "defaultValue"
  | "force"
  | "experiment"
  | "unknownFeature"
  | "cyclicPrerequisite"
  | "prerequisite"
  | "remote"
  | "off";

export interface ExperimentResult {
  key: string;
  value: Json;
  variationId: number;
  inExperiment: boolean;
  /** Whether the hash chose the arm, or a kept arm; only then the unit counts as exposed. */
  hashUsed: boolean;
  hashAttribute: string;
  hashValue: Json;
  featureId: string | null;
  stickyBucketUsed: boolean;
  name?: string;
  bucket?: number;
  passthrough?: boolean;
}

export interface FeatureResult {
  value: Json;
  source: Source;
  ruleId: string;
  experiment?: Experiment;
  experimentResult?: ExperimentResult;
}

/** Properties of a rule that become those of its experiment. */
const SHARED = [
  "coverage",
  "weights",
  "ranges",
  "hashAttribute",
  "hashVersion",
  "seed",
  "meta",
  "name",
  "phase",
  "namespace",
  "filters",
  "condition",
  "fallbackAttribute",
  "disableStickyBucketing",
  "bucketVersion",
  "minBucketVersion",
] as const;

/**
 * Evaluate a flag, and keep the arm that gave its value. It never throws for a payload of the right
 * shape.
 */
export function evaluateFeature(context: Context, key: string): FeatureResult {
  const found = feature(context, key, []);
  const { experiment, experimentResult: result } = found;
  if (experiment && result?.hashUsed && context.sticky && sticks(context, experiment)) {
    const unit = { attribute: result.hashAttribute, value: toText(result.hashValue) };
    keepArm(context.sticky, unit, experiment, result.key);
  }
  return found;
}

/** Run an experiment that belongs to no flag. */
export function runExperiment(context: Context, experiment: Experiment): ExperimentResult {
  return run(context, experiment, null, []).result;
}

function feature(context: Context, key: string, path: readonly string[]): FeatureResult {
  if (path.includes(key)) return ended("cyclicPrerequisite");
  const { features } = context.payload;
  if (!hasOwn(features, key)) return ended("unknownFeature");
  const { rules, defaultValue = null, remote, off } = features[key]!;
  if (remote) return ended("remote");
  if (off) return { value: defaultValue, source: "off", ruleId: "" };
  for (const rule of rules ?? []) {
    const parents = parentsOf(context, rule.parentConditions, [...path, key]);
    if (parents === "unmet") continue;
    if (parents !== "met") return ended(parents);
    const found = apply(context, rule, key, [...path, key]);
    if (found) return found;
  }
  return { value: defaultValue, source: "defaultValue", ruleId: "" };
}

function ended(source: Source): FeatureResult {
  return { value: null, source, ruleId: "" };
}

/** Evaluate the flags that have to have certain values. */
function parentsOf(
  context: Context,
  parents: ParentCondition[] | undefined,
  path: readonly string[],
): "met" | "unmet" | "prerequisite" | "cyclicPrerequisite" | "remote" {
  for (const { id, condition, gate } of parents ?? []) {
    const { value, source } = feature(context, id, path);
    if (source === "cyclicPrerequisite" || source === "remote") return source;
    const holds = fulfils({ value }, condition ?? {}, context.payload.savedGroups);
    if (!holds) return gate ? "prerequisite" : "unmet";
  }
  return "met";
}

/** Apply one rule; undefined if the next one decides. */
function apply(
  context: Context,
  rule: Rule,
  key: string,
  path: readonly string[],
): FeatureResult | undefined {
  if (rule.filters && filteredOut(context, rule.filters)) return undefined;
  const ruleId = rule.id ?? "";
  if (rule.force !== undefined) {
    const applies = targeted(context, rule.condition) && inRollout(context, rule, key);
    return applies ? { value: rule.force, source: "force", ruleId } : undefined;
  }
  const variations = rule.variations ?? rule.contextualVariations;
  if (!variations) return undefined;
  const { experiment, result } = run(context, experimentOf(rule, variations, key), key, path);
  if (!result.inExperiment || result.passthrough) return undefined;
  const { value } = result;
  return { value, source: "experiment", ruleId, experiment, experimentResult: result };
}

function experimentOf(rule: Rule, variations: Json[], key: string): Experiment {
  const experiment: Experiment = { key: rule.key || key, variations };
  for (const name of SHARED) {
    if (rule[name] !== undefined) Object.assign(experiment, { [name]: rule[name] });
  }
  return experiment;
}

interface Ran {
  experiment: Experiment;
  result: ExperimentResult;
}

function run(
  context: Context,
  experiment: Experiment,
  featureId: string | null,
  path: readonly string[],
): Ran {
  const outside = (arm: number, sticky = false): Ran => {
    const result = resultOf(context, experiment, featureId, arm);
    return { experiment, result: { ...result, stickyBucketUsed: sticky } };
  };
  if (experiment.variations.length < 2 || context.enabled === false) return outside(-1);
  const asked = askedArm(experiment, context);
  if (asked !== undefined) return outside(asked);
  if (experiment.status === "draft" || experiment.active === false) return outside(-1);
  const unit = unitOf(context, experiment.hashAttribute, fallbackOf(context, experiment));
  if (!unit) return outside(-1);
  const kept = keptFor(context, experiment);
  if (kept === -1 && !eligible(context, experiment, unit, path)) return outside(-1);
  const found = bucket(experiment.seed || experiment.key, unit.value, experiment.hashVersion || 1);
  if (found === null) return outside(-1);
  if (kept === "blocked") return outside(-1, true);
  const arm = kept >= 0 ? kept : chooseArm(found, rangesOf(experiment));
  if (arm < 0 || arm >= experiment.variations.length) return outside(-1);
  if (experiment.force !== undefined) return outside(experiment.force);
  if (context.preview || experiment.status === "stopped") return outside(-1);
  const drawn = resultOf(context, experiment, featureId, arm);
  const result = { ...drawn, hashUsed: true, bucket: found, stickyBucketUsed: kept >= 0 };
  return { experiment, result };
}

/** Return whether a unit that has no kept arm may take part. */
function eligible(
  context: Context,
  experiment: Experiment,
  unit: Unit,
  path: readonly string[],
): boolean {
  const { filters, namespace, condition, parentConditions } = experiment;
  if (filters ? filteredOut(context, filters) : namespace && !inNamespace(unit.value, namespace)) {
    return false;
  }
  return targeted(context, condition) && parentsOf(context, parentConditions, path) === "met";
}

function rangesOf({ ranges, variations, coverage, weights }: Experiment) {
  return ranges ?? bucketRanges(variations.length, coverage, weights);
}

/** Return the arm that the address or the page asks for. */
function askedArm({ key, variations }: Experiment, { url, forced }: Context): number | undefined {
  const query = url?.split("?")[1]?.replace(/#.*/, "") ?? "";
  for (const part of query.split("&")) {
    const [name, value = ""] = part.split("=", 2);
    const arm = name === key ? Number.parseInt(value, 10) : Number.NaN;
    if (arm >= 0 && arm < variations.length) return arm;
  }
  return forced && hasOwn(forced, key) ? forced[key] : undefined;
}

function resultOf(
  context: Context,
  experiment: Experiment,
  featureId: string | null,
  arm: number,
): ExperimentResult {
  const { variations, hashAttribute } = experiment;
  const inExperiment = arm >= 0 && arm < variations.length;
  const variationId = inExperiment ? arm : 0;
  const unit = lookUp(context, hashAttribute, fallbackOf(context, experiment));
  const { name, passthrough } = experiment.meta?.[variationId] ?? {};
  return {
    key: armKey(experiment.meta, variationId),
    featureId,
    inExperiment,
    hashUsed: false,
    variationId,
    value: variations[variationId] ?? null,
    hashAttribute: unit.attribute,
    hashValue: unit.value,
    stickyBucketUsed: false,
    ...(name && { name }),
    ...(passthrough && { passthrough }),
  };
}

function targeted(context: Context, condition: JsonObject | undefined): boolean {
  return !condition || fulfils(context.attributes, condition, context.payload.savedGroups);
}

function filteredOut(context: Context, filters: readonly Filter[]): boolean {
  return filters.some(({ seed, ranges, attribute, hashVersion }) => {
    const unit = unitOf(context, attribute);
    const found = unit ? bucket(seed, unit.value, hashVersion || 2) : null;
    return found === null || !ranges.some((range) => inRange(found, range));
  });
}

/** Return whether a unit belongs to the share that a rule with a forced value reaches. */
function inRollout(context: Context, rule: Rule, key: string): boolean {
  const { range, coverage } = rule;
  if (!range && coverage === undefined) return true;
  if (!range && coverage === 0) return false;
  const unit = unitOf(context, rule.hashAttribute);
  const found = unit ? bucket(rule.seed || key, unit.value, rule.hashVersion || 1) : null;
  if (found === null) return false;
  return range ? inRange(found, range) : found <= (coverage ?? 1);
}

function sticks(context: Context, { disableStickyBucketing }: Experiment): boolean {
  return context.sticky !== undefined && !disableStickyBucketing;
}

function fallbackOf(context: Context, assignment: Experiment): string | undefined {
  return sticks(context, assignment) ? assignment.fallbackAttribute : undefined;
}

function keptFor(context: Context, experiment: Experiment): number | "blocked" {
  if (!sticks(context, experiment)) return -1;
  const { hashAttribute, fallbackAttribute } = experiment;
  const names = fallbackAttribute === undefined ? [hashAttribute] : [hashAttribute, fallbackAttribute];
  const units = names.map((name) => unitOf(context, name)).filter((unit) => unit !== undefined);
  return keptArm(context.sticky!, units, experiment);
}

/** Return the unit of an attribute, or of the fallback; undefined if both are missing or empty. */
function unitOf(context: Context, name?: string, fallback?: string): Unit | undefined {
  const { attribute, value } = lookUp(context, name, fallback);
  return value ? { attribute, value: toText(value) } : undefined;
}

function lookUp({ attributes }: Context, name = "id", fallback?: string) {
  const first = attribute(attributes, name || "id");
  if (first || !fallback) return { attribute: name || "id", value: first };
  const second = attribute(attributes, fallback);
  return second ? { attribute: fallback, value: second } : { attribute: name || "id", value: first };
}

function attribute(attributes: JsonObject, name: string): Json {
  return hasOwn(attributes, name) ? (attributes[name] ?? "") : "";
}
