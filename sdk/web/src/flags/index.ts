// Flags and experiments for a page. A page that uses none does not load this module.

export { TactfulError } from "../transport.js";
export { Flags, type FlagsOptions } from "./client.js";
export type { Evaluation } from "./explain.js";
export type { Visitor } from "./exposures.js";
export type { Json, JsonObject } from "./json.js";
