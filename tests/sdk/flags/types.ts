// Code of a page whose types `scripts/web check` judges: a fallback must not narrow the type of a value.
import { Flags } from "../../../sdk/web/src/flags/index.js";

interface Cart {
  pages: number;
}

export function read(flags: Flags): unknown[] {
  const cart: Cart = flags.value<Cart>("cart", { pages: 1 });
  const size: "s" | "l" = flags.value<"s" | "l">("size", "s");
  const title: string = flags.value("texts", { title: "Tea" }).title;
  const count: number = flags.value("count", 0) + 1;
  return [flags.value("plan", "free") === "pro", flags.value("on", false) === true, count, title, cart, size];
}
