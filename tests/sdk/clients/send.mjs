// Sends the calls of standard input by a stock client: node send.mjs segment|rudderstack URL KEY
// A call is a line: ["track", {"userId": "ada", "event": "Product Viewed", …}]
import { readFileSync } from "node:fs";

const [client, url, key] = process.argv.slice(2);
const calls = readFileSync(0, "utf8").trim().split("\n").map((line) => JSON.parse(line));
for (const [, message] of calls) {
  if (message.timestamp) message.timestamp = new Date(message.timestamp);
}

if (client === "segment") {
  const { Analytics } = await import("@segment/analytics-node");
  const analytics = new Analytics({
    writeKey: key, host: url, path: "/v1/sources/segment/v1/batch", flushAt: 20, maxRetries: 1,
  });
  analytics.on("http_request", ({ url: address }) => console.log("to", address));
  analytics.on("error", ({ reason }) => console.log("failed", String(reason)));
  let delivered = 0;
  for (const [call, message] of calls) {
    analytics[call](message, (error) => { if (!error) delivered += 1; });
  }
  await analytics.closeAndFlush({ timeout: 20000 });
  console.log("delivered", delivered);
} else {
  const { default: Rudder } = await import("@rudderstack/rudder-sdk-node");
  const analytics = new Rudder(key, { dataPlaneUrl: `${url}/v1/sources/rudderstack`, retryCount: 1 });
  let delivered = 0;
  for (const [call, message] of calls) {
    analytics[call](message, (error) => { if (!error) delivered += 1; });
  }
  for (let wait = 0; wait < 100 && delivered < calls.length; wait += 1) {
    await analytics.flush().catch((error) => console.log("failed", error.message));
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  console.log("delivered", delivered);
  process.exit(0);
}
