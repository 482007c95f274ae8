// Evaluates lists of cases; the input names the function, so one process serves many cases.
import { readFileSync } from "node:fs";
import {
  bucket,
  bucketRanges,
  chooseArm,
  equalWeights,
  evaluateFeature,
  fulfils,
  inNamespace,
  runExperiment,
  withDerived,
} from "./flags-core.js";

/** Return a context, and the sticky documents that an evaluation may add to. */
function contextOf(given) {
  const { features = {}, savedGroups = {}, hashed, attributes = {}, sticky } = given;
  const arms = sticky ? new Map(Object.entries(sticky)) : undefined;
  return {
    payload: { features, savedGroups },
    attributes: withDerived(attributes, hashed),
    sticky: arms,
    forced: given.forcedVariations,
    url: given.url,
    preview: given.qaMode,
    enabled: given.enabled,
  };
}

const functions = {
  bucket,
  bucketRanges,
  chooseArm,
  equalWeights,
  inNamespace,
  fulfils,
  feature: (given, key) => evaluateFeature(contextOf(given), key),
  run: (given, experiment) => runExperiment(contextOf(given), experiment),
  sticky(given, key) {
    const context = contextOf(given);
    const result = evaluateFeature(context, key);
    return [result, Object.fromEntries(context.sticky ?? [])];
  },
};

const { name, cases } = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(cases.map((given) => functions[name](...given) ?? null)));
