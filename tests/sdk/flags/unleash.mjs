// Reads features of Unleash and evaluates its cases.
import { readFileSync } from "node:fs";
import { readUnleash } from "./flags-unleash.js";

const { state, tests, variantTests } = JSON.parse(readFileSync(0, "utf8"));
let answer;
try {
  const flags = readUnleash(state);
  answer = {
    tests: tests.map(({ toggleName, context }) => flags.isEnabled(toggleName, context)),
    variantTests: variantTests.map(({ toggleName, context }) => flags.variant(toggleName, context)),
  };
} catch (error) {
  answer = { error: error.message };
}
process.stdout.write(JSON.stringify(answer));
