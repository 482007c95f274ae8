// Elements of the page. Texts are set as text, never as HTML.

/** @typedef {{item_id: string, title: string, category: string, price: number}} Good */

/** The reason of a channel, in words for a visitor. */
export const REASONS = /** @type {Record<string, string>} */ ({
  next: "often opened after what you opened",
  together: "goes with what you opened",
  sessions: "from visits like yours",
  vectors: "like what you opened",
  repeat: "you had it before",
  popular: "popular",
  intent: "in a category this device is after",
  campaign: "on offer",
  cohort: "liked by customers like you",
  trending: "on the rise",
  rule: "a rule of the shop",
  asked: "found by your search",
});

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @returns {T}
 */
export function byId(id) {
  return /** @type {T} */ (document.getElementById(id));
}

/**
 * @param {string} name
 * @param {Record<string, string>} attributes
 * @param {Array<Node | string>} children
 */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** @param {Good} good */
export function pictureOf(good) {
  return `pictures/${encodeURIComponent(good.item_id)}.svg`;
}

/** @param {number} price */
export function priced(price) {
  return price.toLocaleString("en", { style: "currency", currency: "EUR" });
}

/**
 * A card of an item; the button below it names the reason.
 *
 * @param {Good} good
 * @param {{open: () => void, because?: string, why?: () => void}} does
 */
export function card(good, { open, because, why }) {
  const button = element(
    "button",
    { type: "button", class: "open" },
    element("img", { src: pictureOf(good), alt: "", loading: "lazy", width: "160", height: "160" }),
    element("span", { class: "title" }, good.title),
    element("span", { class: "price" }, priced(good.price)),
  );
  button.addEventListener("click", open);
  const made = element("li", { "data-item": good.item_id }, button);
  if (because && why) {
    const ask = element("button", { type: "button" }, because);
    ask.setAttribute("aria-label", `Why ${good.title} is shown: ${because}`);
    ask.addEventListener("click", why);
    made.append(element("p", { class: "because" }, ask));
  }
  return made;
}

/**
 * @param {HTMLElement} list
 * @param {Array<[string, string]>} facts
 */
export function describe(list, facts) {
  const rows = facts.flatMap(([term, text]) => [element("dt", {}, term), element("dd", {}, text)]);
  list.replaceChildren(...rows);
}

/**
 * @param {HTMLElement} list
 * @param {Array<[string, number]>} weights
 */
export function bars(list, weights) {
  const rows = weights.slice(0, 5).map(([category, weight]) => {
    const share = `${Math.round(weight * 100)} %`;
    const meter = element("meter", { value: String(weight), "aria-label": `${category}: ${share}` });
    return element("li", {}, element("span", {}, category), meter, element("span", {}, share));
  });
  const nothing = element("li", { class: "note" }, "nothing yet");
  list.replaceChildren(...(rows.length ? rows : [nothing]));
}
