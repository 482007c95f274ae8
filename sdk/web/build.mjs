// Usage: node build.mjs [FOLDER]. Writes types, the modules and a script with the global `tactful` to
// FOLDER, default dist, and prints their sizes. Flags are modules of their own: a page that uses none
// does not load them.
import { build } from "esbuild";
import { spawnSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

const folder = process.argv[2] ?? "dist";
const types = ["--emitDeclarationOnly", "--outDir", folder];
const judged = spawnSync("npx", ["--no-install", "tsc", ...types], { stdio: "inherit" });
if (judged.status !== 0) process.exit(1);

const bundles = [
  { source: "index.ts", file: "tactful.js", format: "esm" },
  { source: "index.ts", file: "tactful.global.js", format: "iife", globalName: "tactful" },
  { source: "flags/index.ts", file: "flags.js", format: "esm" },
  { source: "flags/core.ts", file: "flags-core.js", format: "esm" },
  { source: "flags/unleash.ts", file: "flags-unleash.js", format: "esm" },
  { source: "flags/openfeature.ts", file: "flags-openfeature.js", format: "esm" },
  { source: "device/index.ts", file: "device.js", format: "esm" },
  { source: "device/core.ts", file: "device-core.js", format: "esm" },
];
for (const { source, file, ...form } of bundles) {
  const outfile = join(folder, file);
  await build({
    entryPoints: [join("src", source)],
    bundle: true,
    minify: true,
    sourcemap: true,
    target: "es2020",
    external: ["@openfeature/*"],
    logLevel: "warning",
    outfile,
    ...form,
  });
  const code = await readFile(outfile);
  console.log(`${file}: ${code.length} bytes, ${gzipSync(code).length} with gzip`);
}
