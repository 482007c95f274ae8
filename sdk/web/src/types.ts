// What goes over the wire, with the names it has there (`docs/reference/http.md`).

/** Types of events that a page may send; `x.` begins a name of your own. */
export type EventType =
  | "view"
  | "click"
  | "search"
  | "add_to_cart"
  | "remove_from_cart"
  | "dislike"
  | "hide"
  | "purchase"
  | "leave"
  | "impression"
  | "rating"
  | "exposure"
  | `x.${string}`;

export type Scalar = string | number | boolean | null;

/** Something a visitor did. The client adds what is left out, and the device. */
export interface PageEvent {
  type: EventType;
  /** What it is about. */
  item_id?: string;
  /** Of the list it follows from. */
  recommendation_id?: string;
  /** Price, quantity, category, dwell_ms and others. */
  properties?: Record<string, Scalar | Scalar[]>;
  /** Page, locale and others. Nothing is read off the page by itself. */
  context?: Record<string, Scalar>;
  /** When it happened, epoch milliseconds; now, if left out. */
  timestamp?: number;
  /** Sent again with the same id it counts once; a random one, if left out. */
  event_id?: string;
}

/** An event as it is queued and sent. */
export interface SentEvent extends PageEvent {
  timestamp: number;
  event_id: string;
  device_id: string;
  session_id: string;
}

/** What to recommend; whom for is the client's to say. */
export interface RecommendRequest {
  /** How many items, 20 if left out. */
  count?: number;
  /** The item of the page: it counts as the latest of the visit, and is not returned. */
  item_id?: string;
  /** A history that the page keeps itself, the latest item last; the server stores none of it. */
  items?: string[];
  /** Rank these items, and return no others. */
  candidates?: Candidate[];
  /** Only items of this category. */
  category?: string;
  /** Only items that pass. */
  filter?: ItemFilter;
  /** Least share of the places for items that are new to the user, 0 to 1. */
  discovery?: number;
  /** Only items that cost at least, and at most, so much. */
  min_price?: number;
  max_price?: number;
  /** Item ids not to return. */
  exclude?: string[];
  /** Return nothing that this device has looked at lately. */
  exclude_seen?: boolean;
  /** Return nothing that was taken already. */
  exclude_taken?: boolean;
  /** Categories that the device itself expects to matter, 0 to 1; it decides whether to tell. */
  intent?: Record<string, number>;
  /**
   * Where it will be shown: page, and `query`, `device`, `referrer`, `region` and `time_zone`, which
   * ranking reads.
   */
  context?: Record<string, Scalar>;
}

/** An item to rank; larger numbers are better. */
export interface Candidate {
  item_id: string;
  score?: number;
  text_match?: number;
  vector_match?: number;
}

/** A condition on items: every given part must hold. */
export interface ItemFilter {
  and?: ItemFilter[];
  or?: ItemFilter[];
  not?: ItemFilter;
  /** `item_id`, `category`, `price`, or the name of a property. */
  field?: string;
  in?: (string | number | boolean)[];
  min?: number;
  max?: number;
  known?: boolean;
}

export interface RecommendedItem {
  item_id: string;
  /** What the list is ordered by; comparable within one answer only. */
  score: number;
  channel: string;
}

export interface Recommendation {
  /** Goes with every event that follows from this list; `click` and `impression` see to it. */
  recommendation_id: string;
  /** Best first. */
  items: RecommendedItem[];
  model_version: string;
  /** Arm by experiment. */
  variant: Record<string, string>;
  /** Why the list is short or not personal, in words. */
  fallback: string | null;
  took_ms: number;
}

/** Items that a click may follow from: an answer of `recommend` or `search`. */
export interface Shown {
  recommendation_id: string | null;
  items: { item_id: string }[];
}

/** Options of a search beside its query. The client adds the visitor. */
export interface SearchRequest {
  /** A JPEG, PNG, WebP or GIF file in base64: items that look like it, also without words. */
  picture?: string;
  /** A spoken question in base64, with an empty query: WAV, FLAC, OGG or MP3. */
  audio?: string;
  /** Language of `audio`, such as `en`. */
  language?: string;
  /** Only items of this category. */
  category?: string;
  /** Only items that pass. */
  filter?: ItemFilter;
  /** Only items that cost at least, and at most, so much. */
  min_price?: number;
  max_price?: number;
  /** Items that cannot be bought now, too. */
  unavailable?: boolean;
  /** Count all matches by these fields: `category`, `price`, or names of properties. */
  facets?: string[];
  /** How many items a page has, 20 if left out. */
  limit?: number;
  /** `next_cursor` of the page before. */
  cursor?: string;
  /** Whether the server logs the query as a `search` event; true if left out. */
  record?: boolean;
  /** Where it will be shown, as of `recommend`. */
  context?: Record<string, Scalar>;
}

export interface SearchAnswer extends Shown {
  /** Best first. */
  items: {
    item_id: string;
    score: number;
    title: string | null;
    /** BM25 score of the words; null for an item that has none of them. */
    text_match: number | null;
    /** Cosine of pictures or meanings; null for an item that is not near. */
    vector_match: number | null;
  }[];
  total: number;
  /** The text of `audio`, if there was any. */
  heard: { text: string; confidence: number; language: string; alternatives: string[] } | null;
  next_cursor: string | null;
  facets: {
    values: Record<string, { value: string; items: number }[]>;
    prices: { low: number; high: number; items: number }[];
  } | null;
  /** Why there is no item, or why items do not have all words. */
  note: string | null;
  model_version: string;
  /** Arm by experiment. */
  variant: Record<string, string>;
  /** Why the order is not personal, in words. */
  fallback: string | null;
  took_ms: number;
}

/** Which items of a list that is the same for everybody. */
export interface ListRequest {
  /** How many items, 20 if left out. */
  count?: number;
  /** Only items of this category. */
  category?: string;
}

export interface ListedItem {
  item_id: string;
  /** Share of the best item's, or of a trend the factor of its growth; popular and latest have none. */
  score?: number;
}

export interface ItemList {
  /** Best first. */
  items: ListedItem[];
  /** Why the list is short, in words. */
  fallback: string | null;
}

/** An event that the server refused. */
export interface Rejection {
  index: number;
  code: string;
  message: string;
}

/** What the server answers to events. */
export interface EventsAccepted {
  accepted: number;
  duplicates: number;
  rejected: Rejection[];
}

/** A profile of the visitor, signed by one domain and encrypted for another. */
export interface ProfileToken {
  token: string;
  releasing: string;
  receiving: string;
  /** From then on it is refused, epoch milliseconds. */
  expires_at: number;
}

/** A profile that arrived from another domain. */
export interface Crossed {
  releasing: string;
  embedding: string;
  /** Epoch milliseconds. */
  crossed_at: number;
  /** Whether recommendations follow from it already. */
  used: boolean;
}
