// The types of the bundle that lies beside the shop's page, which are those of its source.
export * from "../../src/index.js";
