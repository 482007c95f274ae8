// The OpenFeature provider in the SDK for web pages.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { OpenFeature, ProviderEvents } from "@openfeature/web-sdk";
import { emptyStorage, FakeServer, FakeVisitor, until } from "./fake_server.mjs";
import { Flags } from "./flags.js";
import { TactfulProvider } from "./flags-openfeature.js";

const features = {
  cart: { defaultValue: false, rules: [{ id: "swiss", force: true, condition: { country: "CH" } }] },
  price: {
    defaultValue: 1,
    rules: [{ key: "price", variations: [1, 2], meta: [{ key: "old" }, { key: "new" }], weights: [0, 1], hashVersion: 2 }],
  },
  texts: { defaultValue: { title: "Tea" } },
  killed: { defaultValue: "plain", off: true },
};
const visitor = new FakeVisitor("d-1");
let server, flags, client;

before(async () => {
  emptyStorage();
  server = await new FakeServer().start();
  server.publish(features);
  flags = new Flags({ url: server.url, client: visitor, spreadMs: 0 });
  await OpenFeature.setContext({ country: "DE" });
  await OpenFeature.setProviderAndWait(new TactfulProvider(flags));
  client = OpenFeature.getClient();
});

after(async () => {
  await OpenFeature.close();
  flags.close();
  await server.stop();
});

test("values carry their reason, arm and rule", async () => {
  assert.deepEqual(client.getObjectValue("texts", {}), { title: "Tea" });
  const { value, variant, reason, flagMetadata } = client.getNumberDetails("price", 0);
  assert.deepEqual([value, variant, reason], [2, "new", "SPLIT"]);
  assert.deepEqual(flagMetadata, { version: 1, experiment: "price" });
  const killed = client.getStringDetails("killed", "none");
  assert.deepEqual([killed.value, killed.reason], ["plain", "DISABLED"]);
  await until(() => visitor.events.length === 1);
});

test("an unknown flag and one of another type give the caller's value", () => {
  const unknown = client.getBooleanDetails("none", true);
  const message = 'flag "none": unknown';
  assert.deepEqual(
    [unknown.value, unknown.errorCode, unknown.errorMessage],
    [true, "FLAG_NOT_FOUND", message],
  );
  const other = client.getStringDetails("price", "x");
  assert.deepEqual([other.value, other.errorCode], ["x", "TYPE_MISMATCH"]);
  assert.equal(other.errorMessage, 'flag "price" has a value of another type');
});

test("the context gives attributes, and its key the unit", async () => {
  assert.equal(client.getBooleanValue("cart", true), false);
  await OpenFeature.setContext({ targetingKey: "u-1", country: "CH", since: new Date(0) });
  const { value, reason, flagMetadata } = client.getBooleanDetails("cart", false);
  assert.deepEqual([value, reason, flagMetadata.ruleId], [true, "TARGETING_MATCH", "swiss"]);
});

test("without a context the attributes of the flags stay", async () => {
  await OpenFeature.clearContexts();
  const swiss = new Flags({ url: server.url, attributes: { country: "CH" }, stream: false });
  await OpenFeature.setProviderAndWait("own", new TactfulProvider(swiss));
  assert.equal(OpenFeature.getClient("own").getBooleanValue("cart", false), true);
  swiss.close();
});

test("a new version is an event", async () => {
  let heard = 0;
  client.addHandler(ProviderEvents.ConfigurationChanged, () => (heard += 1));
  server.publish({ texts: { defaultValue: { title: "Pot" } } });
  await until(() => flags.version === 2 && heard > 0);
  assert.deepEqual(client.getObjectValue("texts", {}), { title: "Pot" });
});
