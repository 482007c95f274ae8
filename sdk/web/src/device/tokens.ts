// Categories, their tokens, and the questions of a model: docs/reference/secure-sum.md.

import { sha256 } from "@noble/hashes/sha2.js";
import { hex, utf8 } from "./bytes.js";
import { require } from "./errors.js";

/** Padding of a window; as an answer it means "not scored". */
export const PAD = 0;
/** First token of every visit. */
export const BOUNDARY = 1;
/** Token of a category that is not in the catalogue. */
export const OTHER = 2;
/** Smallest token of a category of the catalogue. */
export const FIRST_CATEGORY = 3;

const MOST_TOKENS = 20_000;
// White space of Python's str.strip, which differs from that of JavaScript.
const BLANK = /^[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*$/;

/** Public categories; category i is token i + 3. */
export class Vocabulary {
  readonly categories: readonly string[];
  private readonly tokens: ReadonlyMap<string, number>;

  /** Build the vocabulary of a catalogue; order and repetitions are ignored. */
  constructor(catalogue: Iterable<string>) {
    const named = [...new Set(catalogue)].filter((name) => !BLANK.test(name));
    require(named.length > 0, "the catalogue lists no category");
    this.categories = named.sort(byCodePoint);
    this.tokens = new Map(this.categories.map((name, at) => [name, at + FIRST_CATEGORY]));
  }

  /** Number of tokens, including the three reserved ones. */
  get size(): number {
    return this.categories.length + FIRST_CATEGORY;
  }

  /** SHA-256 of the list of categories. */
  get fingerprint(): string {
    return hex(sha256(utf8(this.categories.join("\0"))));
  }

  has(category: string): boolean {
    return this.tokens.has(category);
  }

  token(category: string): number {
    return this.tokens.get(category) ?? OTHER;
  }

  category(token: number): string | undefined {
    return this.categories[token - FIRST_CATEGORY];
  }

  /** Return the tokens of visits in time order: each category of a visit once, most lines first. */
  sequence(visits: Iterable<readonly string[]>): number[] {
    const out: number[] = [];
    for (const visit of visits) {
      const lines = new Map<number, number>();
      for (const category of visit) {
        const token = this.tokens.get(category) ?? OTHER;
        lines.set(token, (lines.get(token) ?? 0) + 1);
      }
      if (lines.size === 0) continue;
      const sorted = [...lines].sort(([a, more], [b, fewer]) => fewer - more || a - b);
      out.push(BOUNDARY, ...sorted.map(([token]) => token));
    }
    return out;
  }
}

/** Rows of equal length; row r asks for `answers[r][t]` given `inputs[r][..t]`. */
export interface Windows {
  readonly inputs: readonly Int32Array[];
  readonly answers: readonly Int32Array[];
}

/** Cut tokens into windows that ask those from position `start` on, each once. */
export function windows(
  sequence: readonly number[],
  { start = 1, scored = 24, context = 24 } = {},
): Windows {
  const inputs: Int32Array[] = [];
  const answers: Int32Array[] = [];
  for (let first = Math.max(start, 1); first < sequence.length; first += scored) {
    const begin = Math.max(1, first - context);
    const end = Math.min(first + scored, sequence.length);
    const input = new Int32Array(context + scored);
    const answer = new Int32Array(context + scored);
    for (let at = begin; at < end; at++) {
      input[at - begin] = sequence[at - 1]!;
      if (at >= first && sequence[at]! >= FIRST_CATEGORY) answer[at - begin] = sequence[at]!;
    }
    inputs.push(input);
    answers.push(answer);
  }
  return { inputs, answers };
}

/** Return the visits of training: all but a share of the latest ones. */
export function training<T>(visits: readonly T[], heldOut: number): T[] {
  return visits.slice(0, visits.length - Math.floor(visits.length * heldOut));
}

/** Return the latest visits with at most `most` tokens, in order. */
export function latest(visits: readonly (readonly string[])[], most = MOST_TOKENS) {
  let first = visits.length;
  for (let left = most; first > 0; first--) {
    left -= new Set(visits[first - 1]).size + 1;
    if (left < 0) break;
  }
  return visits.slice(first);
}

function byCodePoint(a: string, b: string): number {
  const left = Array.from(a, (character) => character.codePointAt(0)!);
  const right = Array.from(b, (character) => character.codePointAt(0)!);
  for (let at = 0; at < Math.min(left.length, right.length); at++) {
    if (left[at] !== right[at]) return left[at]! - right[at]!;
  }
  return left.length - right.length;
}
