// Usage: node build.mjs [FOLDER]. Writes types, a module and a script with the global `tactful` to
// FOLDER, default dist, and prints the sizes of both.
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
  { file: "tactful.js", format: "esm" },
  { file: "tactful.global.js", format: "iife", globalName: "tactful" },
];
for (const { file, ...form } of bundles) {
  const outfile = join(folder, file);
  await build({
    entryPoints: ["src/index.ts"],
    bundle: true,
    minify: true,
    sourcemap: true,
    target: "es2020",
    logLevel: "warning",
    outfile,
    ...form,
  });
  const code = await readFile(outfile);
  console.log(`${file}: ${code.length} bytes, ${gzipSync(code).length} with gzip`);
}
