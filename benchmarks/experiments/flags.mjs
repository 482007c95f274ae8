// Evaluates one flag for many people in Node; prints evaluations per second of five runs, sorted.
// Usage: node flags.mjs BUNDLE < INPUT, where the input has `payload`, `key` and `people`.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const { evaluateFeature } = await import(pathToFileURL(process.argv[2]));
const { payload, key, people } = JSON.parse(readFileSync(0, "utf8"));
const rates = [];
let values = [];
for (let run = 0; run < 5; run += 1) {
  const start = process.cpuUsage();
  values = people.map((attributes) => evaluateFeature({ payload, attributes }, key).value);
  const { user, system } = process.cpuUsage(start);
  rates.push((people.length / (user + system)) * 1e6);
}
rates.sort((left, right) => left - right);
process.stdout.write(JSON.stringify({ rates, values }));
