// The shop's page: what it sends, and which lists it shows. `Tactful` is the browser client.

import { Intent } from "./intent.js";
import { Tactful } from "./client/tactful.js";
import { bars, byId, card, describe, element, pictureOf, priced, REASONS } from "./view.js";

/** @typedef {import("./view.js").Good} Good */
/** @typedef {import("./client/tactful.js").Recommendation} Recommendation */
/** @typedef {import("./client/tactful.js").RecommendRequest} RecommendRequest */

const PURPOSES = "personalisation measurement";

const asked = new URLSearchParams(location.search).get("device") ?? "";
const device = /^[a-z0-9-]{1,20}$/.test(asked) ? asked : "laptop";
const shop = await (await fetch("shop.json")).json();
/** @type {Map<string, Good>} */
const goods = new Map(shop.goods.map((/** @type {Good} */ good) => [good.item_id, good]));
const intent = new Intent();
const state = { category: "", words: "", sent: 0, round: 0 };

const client = new Tactful({
  url: shop.platform,
  purposes: PURPOSES,
  consent: kept("consent") === "yes",
  storagePrefix: `tactful.${device}.`,
  flushAfterMs: 300,
  onError: (error) => say(error.message),
});

// What the shop itself keeps on the device: the answer to its question for consent, and who is
// logged in.

/** @param {string} name */
function kept(name) {
  return localStorage.getItem(`shop.${device}.${name}`) ?? "";
}

/**
 * @param {string} name
 * @param {string} value
 */
function keep(name, value) {
  if (value) localStorage.setItem(`shop.${device}.${name}`, value);
  else localStorage.removeItem(`shop.${device}.${name}`);
}

/** @param {string} text */
function say(text) {
  byId("note").textContent = text && `${text[0]?.toUpperCase()}${text.slice(1)}.`;
}

/**
 * Call the shop's own server.
 *
 * @param {string} path
 * @param {object} body
 */
async function call(path, body) {
  const headers = { "content-type": "application/json" };
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  const read = await answer.json();
  if (!answer.ok) throw new Error(read.detail);
  return read;
}

// Events

/**
 * Note events that were queued, if they were: without consent there are none.
 *
 * @param {string | undefined} eventId
 * @param {string} text
 */
function note(eventId, text, count = 1) {
  if (eventId === undefined) return;
  state.sent += count;
  const list = byId("events");
  list.prepend(element("li", {}, text));
  if (list.children.length > 6) list.lastElementChild?.remove();
  showCount();
}

function showCount() {
  const told = `${state.sent} events since the page was opened`;
  byId("count").textContent = client.consented ? told : `${told}; none without consent`;
}

/**
 * @param {import("./client/tactful.js").EventType} type
 * @param {Good} good
 */
function track(type, good) {
  const { item_id, category, price } = good;
  note(client.track({ type, item_id, properties: { category, price } }), `${type}: ${good.title}`);
}

// Lists

/** @returns {Promise<Recommendation>} */
async function recommended() {
  const arm = /** @type {HTMLSelectElement} */ (byId("arm")).value;
  /** @type {RecommendRequest} */
  const request = { count: 12, context: { page: "home" } };
  if (state.category) request.category = state.category;
  if (state.words) {
    const { items } = await call("find", { search: state.words });
    request.candidates = items.map((/** @type {Good} */ { item_id }) => ({ item_id }));
    if (!items.length) request.filter = { field: "item_id", in: [""] };
  }
  if (/** @type {HTMLInputElement} */ (byId("tell")).checked) {
    request.intent = Object.fromEntries(intent.weights());
  }
  if (!arm) return client.recommend(request, { anonymous: !client.consented });
  // Only a server may choose an arm, so the shop's own requests it.
  if (client.consented) request.context = { ...request.context, consent: PURPOSES };
  return call("recommend", { arm, request, device_id: client.deviceId ?? null });
}

/** Show the lists; of several calls at once the last one counts. */
async function refresh() {
  const round = (state.round += 1);
  const only = state.category ? { count: 6, category: state.category } : { count: 6 };
  const [first] = intent.weights();
  try {
    const [list, popular, latest, after] = await Promise.all([
      recommended(),
      client.popular(only),
      client.latest(only),
      first && client.popular({ count: 6, category: first[0] }),
    ]);
    if (round !== state.round) return;
    showList(list);
    showPlain("popular", popular.items);
    showPlain("latest", latest.items);
    byId("after").hidden = !after;
    if (after && first) {
      byId("after-title").textContent = `This device is after: ${first[0]}`;
      showPlain("after-list", after.items);
    }
  } catch (error) {
    if (round === state.round) say(`the list could not be read: ${/** @type {Error} */ (error).message}`);
  }
  bars(byId("intent"), intent.weights());
}

/** @param {Recommendation} list */
function showList(list) {
  const cards = list.items.flatMap((item) => {
    const good = goods.get(item.item_id);
    if (!good) return [];
    const because = REASONS[item.channel] ?? item.channel;
    return [card(good, { because, open: () => open(good, list), why: () => explain(good, list) })];
  });
  byId("list").replaceChildren(...cards);
  say(cards.length ? (list.fallback ?? "") : "nothing was found");
  if (client.consented && cards.length) {
    client.impression(list);
    note("", `impression: ${cards.length} items`, list.items.length);
  }
  const arm = list.variant["ranking"] ?? "";
  describe(byId("answer"), [
    ["for", client.consented ? kept("user") || "this device" : "everybody"],
    ["order", shop.arms[arm] ?? "as usual"],
    ["ranked by", list.model_version === "heuristic" ? "no model yet" : `model ${list.model_version}`],
    ["took", `${list.took_ms.toFixed(1)} ms on the server`],
  ]);
}

/**
 * @param {string} id
 * @param {Array<{item_id: string}>} items
 */
function showPlain(id, items) {
  byId(id).replaceChildren(...plainCards(items));
}

/** @param {Array<{item_id: string}>} items */
function plainCards(items) {
  return items.flatMap(({ item_id }) => {
    const good = goods.get(item_id);
    return good ? [card(good, { open: () => open(good) })] : [];
  });
}

/** Send what waits, and show what it changed. */
async function sendAndRefresh() {
  await client.flush();
  // The server applies an event some milliseconds after it was stored.
  await new Promise((resolve) => setTimeout(resolve, 60));
  await refresh();
}

// One item

/**
 * @param {Good} good
 * @param {Recommendation} [list] where it was clicked
 */
async function open(good, list) {
  if (list) note(client.click(list, good.item_id), `click: ${good.title}`);
  track("view", good);
  intent.add(good.category);
  /** @type {HTMLImageElement} */ (byId("item-picture")).src = pictureOf(good);
  byId("item-title").textContent = good.title;
  byId("item-price").textContent = `${priced(good.price)}, ${good.category}`;
  byId("basket").onclick = () => put(good);
  byId("basket").textContent = "Add to basket";
  byId("hide").onclick = () => hide(good, list);
  /** @type {HTMLButtonElement} */ (byId("hide")).disabled = !client.consented;
  byId("beside").replaceChildren();
  const dialog = /** @type {HTMLDialogElement} */ (byId("item"));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  const sent = sendAndRefresh();
  /** @type {Array<["similar" | "together" | "next", string]>} */
  const kinds = [
    ["similar", "Similar"],
    ["together", "Bought together"],
    ["next", "Opened next"],
  ];
  const lists = await Promise.allSettled(kinds.map(([kind]) => client[kind](good.item_id, { count: 4 })));
  if (byId("item-title").textContent === good.title) {
    byId("beside").replaceChildren(
      ...kinds.flatMap(([, title], place) => {
        const settled = lists[place];
        const items = settled?.status === "fulfilled" ? settled.value.items : [];
        const cards = element("ul", { class: "cards small" }, ...plainCards(items));
        return items.length ? [element("h3", {}, title), cards] : [];
      }),
    );
  }
  await sent;
}

/** @param {Good} good */
function put(good) {
  track("add_to_cart", good);
  byId("basket").textContent = "In the basket";
  void sendAndRefresh();
}

/**
 * @param {Good} good
 * @param {Recommendation} [list]
 */
function hide(good, list) {
  note(client.hide(good.item_id, list), `hide: ${good.title}`);
  /** @type {HTMLDialogElement} */ (byId("item")).close();
  void sendAndRefresh();
}

/**
 * @param {Good} good
 * @param {Recommendation} list
 */
async function explain(good, list) {
  byId("why-title").textContent = `Why ${good.title}?`;
  byId("why-text").textContent = "";
  describe(byId("why-facts"), []);
  /** @type {HTMLDialogElement} */ (byId("why")).showModal();
  try {
    const told = await call("why", { recommendation_id: list.recommendation_id });
    const place = told.items.findIndex((/** @type {Good} */ { item_id }) => item_id === good.item_id);
    const item = told.items[place];
    byId("why-text").textContent = told.note ?? "a model ranked this list";
    describe(byId("why-facts"), [
      ["reason", REASONS[item.channel] ?? item.channel],
      ["place", `${place + 1} of ${told.items.length}`],
      ["score", item.score.toPrecision(3)],
      ["order", shop.arms[told.arm] ?? "as usual"],
      ["rules", JSON.stringify(told.rules)],
      ["list", told.recommendation_id.slice(0, 8)],
    ]);
  } catch (error) {
    byId("why-text").textContent = `There is no explanation: ${/** @type {Error} */ (error).message}`;
  }
}

// Consent, log-in and the controls

function showConsent() {
  const text = client.consented
    ? "You agreed: what you open is sent, and the list follows it. The device has a random id."
    : client.optedOut
      ? "Your browser sends a signal that refuses tracking: nothing is stored or sent."
      : "No consent: nothing is stored or sent. The list is the same for everybody.";
  byId("consent-text").textContent = text;
  const button = /** @type {HTMLButtonElement} */ (byId("consent-button"));
  button.textContent = client.consented ? "Withdraw" : "Agree";
  button.disabled = client.optedOut;
  const user = /** @type {HTMLSelectElement} */ (byId("user"));
  user.disabled = !client.consented;
  user.title = client.consented ? "" : "Without consent this device has no id that could be linked";
  user.value = kept("user");
  showCount();
}

async function changeConsent() {
  if (client.consented) {
    await logIn("");
    intent.clear();
  }
  client.setConsent(!client.consented);
  keep("consent", client.consented ? "yes" : "");
  showConsent();
  await refresh();
}

/** @param {string} user id; empty to log out */
async function logIn(user) {
  const device_id = client.deviceId;
  if (device_id === undefined || user === kept("user")) return;
  await client.flush();
  if (user) await call("login", { device_id, user_id: user });
  else await call("logout", { device_id });
  keep("user", user);
}

/** @param {string} category */
function choose(category) {
  state.category = category;
  for (const button of byId("categories").children) {
    button.setAttribute("aria-pressed", String(button.getAttribute("data-category") === category));
  }
  void refresh();
}

function start() {
  byId("device").textContent = device;
  const other = device === "laptop" ? "phone" : "laptop";
  byId("other-device").setAttribute("href", `?device=${other}`);
  const buttons = ["", ...shop.categories].map((category) => {
    const attributes = { type: "button", "data-category": category };
    const button = element("button", attributes, category || "everything");
    button.addEventListener("click", () => choose(category));
    return button;
  });
  byId("categories").append(...buttons);
  const options = (/** @type {Record<string, string>} */ named) =>
    Object.entries(named).map(([value, text]) => element("option", { value }, text));
  byId("user").append(...options({ "": "nobody", ...shop.customers }));
  byId("arm").append(...options({ "": "as usual", ...shop.arms }));
  byId("consent-button").addEventListener("click", () => void changeConsent());
  byId("user").addEventListener("change", async (event) => {
    const { value } = /** @type {HTMLSelectElement} */ (event.target);
    await logIn(value).catch((error) => say(error.message));
    showConsent();
    await refresh();
  });
  for (const id of ["arm", "tell"]) byId(id).addEventListener("change", () => void refresh());
  byId("search").addEventListener("submit", (event) => {
    event.preventDefault();
    state.words = /** @type {HTMLInputElement} */ (byId("words")).value.trim();
    void refresh();
  });
  window.addEventListener("storage", () => {
    // Consent was changed in another tab of this device.
    if ((kept("consent") === "yes") !== client.consented) location.reload();
  });
  showConsent();
  choose("");
}

start();
