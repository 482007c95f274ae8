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
