// The payload of flags as the server sends it: the feature format that GrowthBook publishes, and the
// parts that this program adds (`remote`, `hashed`, `version`).

import type { SavedGroups } from "./condition.js";
import type { Namespace, Range } from "./hash.js";
import type { Json, JsonObject } from "./json.js";

/** A flag that has to have a certain value before a rule applies. */
export interface ParentCondition {
  id: string;
  /** About `{"value": …}`, the value of that flag. */
  condition?: JsonObject;
  /** Whether the whole flag ends here if the condition fails; else only the rule. */
  gate?: boolean;
}

/** Intervals of buckets to which a unit must belong. */
export interface Filter {
  seed: string;
  ranges: Range[];
  /** Attribute with the unit; `id` if left out. */
  attribute?: string;
  hashVersion?: number;
}

/** Name and meaning of an arm. */
export interface ArmMeta {
  key?: string;
  name?: string;
  /** Whether units of this arm go on to the next rule, as the part outside a holdout does. */
  passthrough?: boolean;
}

/** The parts that a rule and an experiment share. */
export interface Assignment {
  coverage?: number;
  weights?: number[];
  ranges?: Range[];
  hashAttribute?: string;
  hashVersion?: number;
  seed?: string;
  meta?: ArmMeta[];
  name?: string;
  phase?: string;
  namespace?: Namespace;
  filters?: Filter[];
  condition?: JsonObject;
  /** Attribute to use with sticky arms where `hashAttribute` is missing. */
  fallbackAttribute?: string;
  disableStickyBucketing?: boolean;
  bucketVersion?: number;
  /** Units with an arm of an earlier version leave the experiment. */
  minBucketVersion?: number;
}

/** An experiment by itself. */
export interface Experiment extends Assignment {
  key: string;
  variations: Json[];
  active?: boolean;
  status?: string;
  /** Index of the arm that everybody who takes part gets; it counts as no exposure. */
  force?: number;
  parentConditions?: ParentCondition[];
}

/** A rule of a flag: it forces a value or assigns an arm. */
export interface Rule extends Assignment {
  id?: string;
  key?: string;
  force?: Json;
  variations?: Json[];
  range?: Range;
  parentConditions?: ParentCondition[];
  contextualVariations?: Json[];
}

export interface Feature {
  defaultValue?: Json;
  rules?: Rule[];
  /** Whether only the server can decide, because a rule reads an attribute that is kept secret. */
  remote?: boolean;
  /** Whether the flag is disabled: everybody gets the default value. */
  off?: boolean;
}

/** Attributes whose targeted values are hashed, and the salt. */
export interface Hashed {
  salt: string;
  attributes: string[];
}

export interface Payload {
  /** 1 if left out; another one means that this module cannot evaluate the payload. */
  format?: number;
  version?: number;
  /** Time of the version, epoch milliseconds. */
  generated_ms?: number;
  hashed?: Hashed;
  features: Record<string, Feature>;
  savedGroups?: SavedGroups;
}
