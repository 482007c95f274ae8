// Evaluation alone, without a client: for a program that gets the payload by itself.

export { fulfils, type SavedGroups } from "./condition.js";
export { withDerived } from "./derived.js";
export {
  type Context,
  evaluateFeature,
  type ExperimentResult,
  type FeatureResult,
  runExperiment,
  type Source,
} from "./evaluate.js";
export { bucket, bucketRanges, chooseArm, equalWeights, inNamespace } from "./hash.js";
export type { Json, JsonObject } from "./json.js";
export type * from "./model.js";
export type { StickyArms, StickyDocument } from "./sticky.js";
