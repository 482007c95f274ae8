// Reads documents of Unleash and evaluates their cases.
import { readFileSync } from "node:fs";
import { readUnleash } from "./flags-unleash.js";

function answer({ state, tests, variantTests }) {
  try {
    const flags = readUnleash(state);
    return {
      tests: tests.map(({ toggleName, context }) => flags.isEnabled(toggleName, context)),
      variantTests: variantTests.map(({ toggleName, context }) => flags.variant(toggleName, context)),
    };
  } catch (error) {
    return { error: error.message };
  }
}

const documents = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(documents.map(answer)));
