// The value of a flag with its reason, in the words that the server and the Python client use.

import type { FeatureResult, Source } from "./evaluate.js";
import type { Json } from "./json.js";

/** A value, and the reason for it. */
export interface Evaluation {
  value: Json;
  /**
   * `default`, `force` (a rule that applies), `experiment`, `prerequisite`, `unknown` (no flag has this
   * key), `cyclic`, `remote` (only the server can decide), `off` (the flag is disabled).
   */
  source: "default" | "force" | "experiment" | "prerequisite" | "unknown" | "cyclic" | "remote" | "off";
  ruleId: string | null;
  /** Key of the experiment that gave the value. */
  experiment: string | null;
  arm: string | null;
  armIndex: number | null;
  inExperiment: boolean;
  /** Position of the unit in [0, 1), where the hash chose. */
  bucket: number | null;
  /** Whether the unit kept an arm that it had before. */
  stickyUsed: boolean;
}

const SOURCES: Readonly<Record<Source, Evaluation["source"]>> = {
  defaultValue: "default",
  force: "force",
  experiment: "experiment",
  unknownFeature: "unknown",
  cyclicPrerequisite: "cyclic",
  prerequisite: "prerequisite",
  remote: "remote",
  off: "off",
};

/** Return a result in these words. */
export function explain({ value, source, ruleId, experiment, experimentResult }: FeatureResult): Evaluation {
  return {
    value,
    source: SOURCES[source],
    ruleId: ruleId || null,
    experiment: experiment?.key ?? null,
    arm: experimentResult?.key ?? null,
    armIndex: experimentResult?.variationId ?? null,
    inExperiment: experimentResult?.inExperiment ?? false,
    bucket: experimentResult?.bucket ?? null,
    stickyUsed: experimentResult?.stickyBucketUsed ?? false,
  };
}
