// The signed payload of flags: fetched with its entity tag, checked, and parsed only then.

import { type Address, get, read, send, TactfulError } from "../transport.js";
import { isObject } from "./json.js";
import type { Payload } from "./model.js";

/** A payload as it travels: the signature is over the UTF-8 bytes of the text. */
export interface Envelope {
  payload: string;
  signature: string;
  key_id: string;
}

/** An envelope with the public key that belongs to it, so that a page without network can check it. */
export interface Signed extends Envelope {
  public_key: string;
  etag?: string | undefined;
}

interface SigningKey {
  public_key: string;
}

const TIMEOUT_MS = 10_000;
const FORMAT = 1;

/** The payload of one server. */
export class PayloadSource {
  private etag: string | undefined;
  private asked: Promise<string> | undefined;

  /**
   * @param pinned public key, 32 bytes in base64; if left out, the server is asked for it once.
   */
  constructor(
    private readonly address: Address,
    private readonly pinned: string | undefined,
  ) {}

  /**
   * Fetch the payload and check it.
   *
   * @returns undefined if it has not changed since the last call or `restore`.
   * @throws TactfulError as every request, with `bad_signature` for a payload that the server's key has
   *   not signed, and `unverifiable` where the browser cannot check it.
   */
  async fetch(signal?: AbortSignal): Promise<{ signed: Signed; payload: Payload } | undefined> {
    const headers: Record<string, string> = this.etag ? { "if-none-match": this.etag } : {};
    let etag: string | undefined;
    const reader = async (response: Response): Promise<Envelope | undefined> => {
      if (response.status === 304) return undefined;
      etag = response.headers.get("etag") ?? undefined;
      return read<Envelope>(response);
    };
    const request: RequestInit & { headers: Record<string, string> } = { headers, cache: "no-store" };
    const envelope = await send(this.address, "/v1/flags/payload", request, TIMEOUT_MS, signal, reader);
    if (!envelope) return undefined;
    const signed = { ...envelope, public_key: this.pinned ?? (await this.ask()), etag };
    const payload = await this.open(signed);
    this.etag = etag; // only then: a payload that was refused is fetched again
    return { signed, payload };
  }

  /** Check an envelope that the device has kept, and return its payload; it is not fetched again then. */
  async restore(signed: Signed): Promise<Payload> {
    const payload = await this.open(signed);
    this.etag ??= signed.etag;
    return payload;
  }

  /** Check an envelope, with the pinned key if there is one, and return its payload. */
  private async open({ payload, signature, public_key }: Signed): Promise<Payload> {
    if (typeof payload !== "string" || typeof signature !== "string") {
      throw new TactfulError("bad_answer", "the answer is no signed payload of flags");
    }
    const key = await imported(this.pinned ?? public_key);
    const text = new TextEncoder().encode(payload);
    if (!(await crypto.subtle.verify("Ed25519", key, fromBase64(signature), text))) {
      this.asked = undefined; // the server may have another key by now
      throw new TactfulError("bad_signature", "the flags do not carry the signature of the server's key");
    }
    return parsed(payload);
  }

  private ask(): Promise<string> {
    this.asked ??= get<SigningKey>(this.address, "/v1/flags/signing-key", TIMEOUT_MS)
      .then(({ public_key }) => public_key)
      .catch((error: unknown) => {
        this.asked = undefined;
        throw error;
      });
    return this.asked;
  }
}

async function imported(encoded: string): Promise<CryptoKey> {
  try {
    return await crypto.subtle.importKey("raw", fromBase64(encoded), "Ed25519", false, ["verify"]);
  } catch {
    const why = "this page cannot check Ed25519 signatures: it needs https and a current browser";
    throw new TactfulError("unverifiable", `${why}, or the key is no 32 bytes in base64`);
  }
}

function parsed(text: string): Payload {
  const payload: unknown = JSON.parse(text);
  if (!isObject(payload) || !isObject(payload["features"])) {
    throw new TactfulError("bad_answer", "the payload of flags has no features");
  }
  const { format = FORMAT } = payload;
  if (format !== FORMAT) {
    const cure = `this module reads format ${FORMAT}: update it`;
    throw new TactfulError("unsupported", `the payload of flags has format ${JSON.stringify(format)}; ${cure}`);
  }
  return payload as unknown as Payload;
}

function fromBase64(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}
