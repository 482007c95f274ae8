// The browser client. Consent comes first: before it is given, and after it was withdrawn, nothing is
// stored on the device and no event is sent.

import { Dwell } from "./dwell.js";
import { Outbox } from "./outbox.js";
import { Shelf } from "./storage.js";
import { type Address, get, pauseMs, post, TactfulError, withScheme } from "./transport.js";
import type { EventType, ItemList, ListRequest, PageEvent, Recommendation, RecommendRequest } from "./types.js";
import type { Crossed, ProfileToken } from "./types.js";
import type { SearchAnswer, SearchRequest, Shown } from "./types.js";

export { randomizedResponse, type Weights } from "./randomized.js";
export { TactfulError } from "./transport.js";
export type * from "./types.js";

/** How a client is made. */
export interface Options {
  /**
   * Where the server is, such as `https://tactful.example`; without a scheme http for this machine,
   * else https. A path, such as `/tactful`, is one of the page's own server.
   */
  url: string;
  /** A key with the scope `browser`; none for a server in `--dev`. */
  key?: string;
  /** Whether this visitor has consented already, as your consent dialogue remembers it. */
  consent?: boolean;
  /**
   * What a visitor agrees to who consents, as names of purposes with blanks between them. It goes
   * with every event and request, and counts for visitors of whom the server knows nothing else;
   * `personalisation measurement` if left out.
   */
  purposes?: string;
  /**
   * Whether Global Privacy Control and Do Not Track of the browser count as a refusal, whatever
   * `consent` and `setConsent` say; true if left out. Set it to false only for a visitor who has
   * agreed on this site in spite of the signal; the server must have recorded that, too.
   */
  honourSignals?: boolean;
  /** Send as soon as so many events wait; 20 if left out. */
  batchSize?: number;
  /** Send so long after an event, milliseconds; 5,000 if left out. */
  flushAfterMs?: number;
  /** Keep so many events while the server cannot be reached; 500 if left out. */
  maxQueued?: number;
  /** What all keys in localStorage begin with; `tactful.` if left out. */
  storagePrefix?: string;
  /** Told of what went wrong in the background: nothing is thrown at a page for its events. */
  onError?: (error: TactfulError) => void;
}

/** How one call for a list goes. */
export interface ListOptions {
  /** Milliseconds for the whole call, retries included; 3,000 if left out. */
  timeoutMs?: number;
  /** Aborts the call. */
  signal?: AbortSignal;
}

/** How one call for recommendations goes. */
export interface CallOptions extends ListOptions {
  /** Ask for the list that everybody gets: no id is sent, so it needs no consent. */
  anonymous?: boolean;
}

interface Signals {
  globalPrivacyControl?: boolean;
  doNotTrack?: string | null;
}

/** A page's connection to one server. */
export class Tactful {
  private readonly address: Address;
  private readonly shelf: Shelf;
  private outbox: Outbox | undefined;
  private dwell: Dwell | undefined;
  private readonly unlisten: Array<() => void> = [];

  constructor(private readonly options: Options) {
    this.address = { url: withScheme(options.url), key: options.key };
    this.shelf = new Shelf(options.storagePrefix ?? "tactful.");
    this.listen(document, "visibilitychange", () => {
      if (document.visibilityState === "hidden") this.leave();
      else this.stay();
    });
    this.listen(window, "pagehide", () => this.leave());
    this.listen(window, "pageshow", () => this.stay());
    this.listen(window, "online", () => this.outbox?.online());
    this.listen(window, "storage", (event) => {
      // Consent was withdrawn in another tab, or the visitor emptied the storage.
      const { key, newValue } = event as StorageEvent;
      if (key === null || (key === this.shelf.device && newValue === null)) this.stop(true);
    });
    if (options.consent) this.setConsent(true);
  }

  /** Whether there is consent. */
  get consented(): boolean {
    return this.outbox !== undefined;
  }

  /** Whether the browser sends a signal that counts as a refusal. */
  get optedOut(): boolean {
    if (this.options.honourSignals === false) return false;
    const { globalPrivacyControl, doNotTrack } = navigator as Signals;
    return globalPrivacyControl === true || doNotTrack === "1";
  }

  /**
   * Give or withdraw consent. While `optedOut`, it is withdrawn in either case. Giving it makes the
   * device id and sends the events that an earlier page left. Withdrawing it stops all sending and
   * wipes the device id, the visit and every event that waits, in all tabs.
   */
  setConsent(given: boolean): void {
    if (given && !this.optedOut) {
      this.outbox ??= new Outbox(this.address, this.shelf, {
        batchSize: this.options.batchSize ?? 20,
        flushAfterMs: this.options.flushAfterMs ?? 5_000,
        maxQueued: this.options.maxQueued ?? 500,
        purposes: this.purposes,
        // Later, so that what a page throws there cannot hold its events up.
        onError: (error) => queueMicrotask(() => this.options.onError?.(error)),
      });
      return;
    }
    this.stop(true);
    this.shelf.wipe();
  }

  /** The random id of this device, to tell your server at login; undefined without consent. */
  get deviceId(): string | undefined {
    return this.outbox?.deviceId;
  }

  /**
   * Queue an event.
   *
   * @returns its id; undefined without consent, and then the event is gone.
   */
  track(event: PageEvent): string | undefined {
    return this.outbox?.put(event);
  }

  /**
   * Measure how long this page is in sight: whenever it is hidden or left, a `leave` event with
   * `dwell_ms` is sent, of one page half an hour at most. `recommend` names the time so far. Call it
   * again where a page changes without loading. It does nothing without consent.
   *
   * @param itemId the item of the page, if it is about one.
   */
  watchPage(itemId?: string): void {
    this.dwell?.hide();
    this.dwell =
      this.outbox &&
      new Dwell((dwell_ms) => {
        const about = itemId === undefined ? {} : { item_id: itemId };
        this.track({ type: "leave", ...about, properties: { dwell_ms } });
      });
  }

  /** Say which items of a list came into sight; all, if left out. */
  impression(list: Shown, itemIds?: string[]): void {
    for (const { item_id } of list.items) {
      if (itemIds === undefined || itemIds.includes(item_id)) this.follow("impression", list, item_id);
    }
  }

  /** Say that an item of a list was clicked. */
  click(list: Shown, itemId: string): string | undefined {
    return this.follow("click", list, itemId);
  }

  /** Say that the visitor does not like an item: it goes from their lists, and items like it lose. */
  dislike(itemId: string, list?: Shown): string | undefined {
    return this.follow("dislike", list, itemId);
  }

  /** Say that the visitor hid an item; it counts as `dislike` does. */
  hide(itemId: string, list?: Shown): string | undefined {
    return this.follow("hide", list, itemId);
  }

  /**
   * Ask for recommendations, again if the server is busy and the time allows it.
   *
   * @throws TactfulError with the code `no_consent` without consent and `anonymous`, `timeout`,
   *   `aborted`, `network`, or the code of the server's problem.
   */
  recommend(request: RecommendRequest = {}, options: CallOptions = {}): Promise<Recommendation> {
    return this.ask("/v1/recommend", request, options);
  }

  /**
   * Search items by text, picture or voice, for this visitor. The server logs the query, unless
   * `record` is false, and neither pictures nor audio.
   *
   * @throws TactfulError as `recommend`.
   */
  search(query: string, request: SearchRequest = {}, options: CallOptions = {}): Promise<SearchAnswer> {
    return this.ask("/v1/search", request, options, { query });
  }

  /**
   * List items similar to an item. This and the five lists below are the same for everybody: no id
   * is sent, so they need no consent.
   *
   * @throws TactfulError as `recommend`, with `not_found` for an item that the server does not know.
   */
  similar(itemId: string, request?: ListRequest, options?: ListOptions): Promise<ItemList> {
    return this.list(beside(itemId, "similar"), request, options);
  }

  /** List items that enough people took in the same visits as an item. */
  together(itemId: string, request?: ListRequest, options?: ListOptions): Promise<ItemList> {
    return this.list(beside(itemId, "together"), request, options);
  }

  /** List items that enough people took right after an item. */
  next(itemId: string, request?: ListRequest, options?: ListOptions): Promise<ItemList> {
    return this.list(beside(itemId, "next"), request, options);
  }

  /** List the items that most people take now. */
  popular(request?: ListRequest, options?: ListOptions): Promise<ItemList> {
    return this.list("/v1/popular", request, options);
  }

  /** List items that rise in published statistics. */
  trending(request?: ListRequest, options?: ListOptions): Promise<ItemList> {
    return this.list("/v1/trending", request, options);
  }

  /** List the newest items. */
  latest(request?: ListRequest, options?: ListOptions): Promise<ItemList> {
    return this.list("/v1/latest", request, options);
  }

  /** Send what waits; resolves when it was tried. */
  async flush(): Promise<void> {
    await this.outbox?.flush();
  }

  /** Stop: the client does nothing more; what waits is for the next page. */
  close(): void {
    this.dwell?.hide();
    this.stop(false);
    for (const stop of this.unlisten.splice(0)) stop();
  }

  /** The purposes that go with events and requests. */
  get purposes(): string {
    return this.options.purposes ?? "personalisation measurement";
  }

  /**
   * Fetch the visitor's profile for another domain, which `receiveProfile` there takes within five
   * minutes. The visitor must have agreed to the pair, such as `shop>magazine`, at your server.
   *
   * @throws TactfulError as `recommend`; `no_consent` also without that agreement.
   */
  releaseProfile(domain: string, options: ListOptions = {}): Promise<ProfileToken> {
    return this.cross(`/v1/domains/${encodeURIComponent(domain)}/tokens`, {}, options);
  }

  /**
   * Hand over the `token` of another domain: recommendations here follow the profile from now on.
   *
   * @throws TactfulError as `releaseProfile`; `invalid` for a token that expired or was used.
   */
  receiveProfile(domain: string, token: string, options: ListOptions = {}): Promise<Crossed> {
    return this.cross(`/v1/domains/${encodeURIComponent(domain)}/profiles`, { token }, options);
  }

  private async cross<T>(path: string, more: { token?: string }, options: ListOptions): Promise<T> {
    const { device_id } = this.whom();
    const body = JSON.stringify({ ...more, device_id });
    return post<T>(this.address, path, body, options.timeoutMs ?? 3_000, options.signal);
  }

  private leave(): void {
    this.dwell?.hide(); // before the events that wait are sent
    this.outbox?.leave();
  }

  private stay(): void {
    this.dwell?.show();
    this.outbox?.stay();
  }

  private stop(forget: boolean): void {
    this.dwell = undefined;
    this.outbox?.close(forget);
    this.outbox = undefined;
  }

  private whom(): { device_id: string; session_id: string } {
    if (!this.outbox) {
      const message = "there is no consent: ask for it, or for the list that everybody gets";
      throw new TactfulError("no_consent", `${message} (anonymous: true)`);
    }
    return { device_id: this.outbox.deviceId, session_id: this.shelf.sessionId(Date.now()) };
  }

  private async ask<T>(
    path: string,
    request: RecommendRequest | SearchRequest,
    options: CallOptions,
    more?: { query: string },
  ): Promise<T> {
    const anonymous = options.anonymous ?? false;
    const whom = anonymous ? {} : this.whom();
    const dwell = this.dwell && { dwell_now: this.dwell.total };
    const told = { ...dwell, ...request.context, consent: this.purposes };
    const context = anonymous ? request.context : told;
    const body = JSON.stringify({ ...request, ...more, ...whom, context });
    return this.persist(options, (left, signal) => post<T>(this.address, path, body, left, signal));
  }

  private follow(type: EventType, list: Shown | undefined, item: string): string | undefined {
    if (!list) return this.track({ type, item_id: item });
    const position = list.items.findIndex(({ item_id }) => item_id === item);
    const { recommendation_id } = list;
    if (recommendation_id === null) return this.track({ type, item_id: item }); // a search without items
    return this.track({ type, item_id: item, recommendation_id, properties: { position } });
  }

  private list(path: string, request: ListRequest = {}, options: ListOptions = {}): Promise<ItemList> {
    const given = Object.entries(request).filter(([, value]) => value !== undefined);
    const query = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
    return this.persist(options, (left, signal) =>
      get<ItemList>(this.address, query ? `${path}?${query}` : path, left, signal),
    );
  }

  /** Call, and call again where that may help and the time allows it. */
  private async persist<T>(
    { timeoutMs = 3_000, signal }: ListOptions,
    call: (leftMs: number, signal: AbortSignal | undefined) => Promise<T>,
  ): Promise<T> {
    const end = Date.now() + timeoutMs;
    for (let failures = 1; ; failures += 1) {
      try {
        return await call(Math.max(0, end - Date.now()), signal);
      } catch (error) {
        const failure = error as TactfulError;
        const pause = pauseMs(failures, failure, 100);
        if (!failure.passing || Date.now() + pause >= end) throw error;
        await sleep(pause, signal);
      }
    }
  }

  private listen(target: EventTarget, name: string, heard: (event: Event) => void): void {
    target.addEventListener(name, heard);
    this.unlisten.push(() => target.removeEventListener(name, heard));
  }
}

function beside(itemId: string, list: string): string {
  return `/v1/items/${encodeURIComponent(itemId)}/${list}`;
}

function sleep(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const end = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    };
    const abort = () => {
      end();
      reject(new TactfulError("aborted", "the call was aborted"));
    };
    const timer = setTimeout(() => {
      end();
      resolve();
    }, milliseconds);
    if (signal?.aborted) abort();
    else signal?.addEventListener("abort", abort);
  });
}
