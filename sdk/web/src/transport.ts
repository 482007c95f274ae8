// One request: sent, timed, and its failures told apart.

/** Why something did not work. */
export class TactfulError extends Error {
  /**
   * @param code the server's short name of the problem, or `network`, `timeout`, `aborted`,
   *   `bad_answer`, `no_consent`, `dropped`.
   * @param message what was wrong and what to do.
   * @param status HTTP status; 0 where there was no answer.
   * @param retryAfterMs how long the server wants to be left alone.
   */
  constructor(
    readonly code: string,
    message: string,
    readonly status = 0,
    readonly retryAfterMs = 0,
  ) {
    super(message);
    this.name = "TactfulError";
  }

  /** Whether the same request may work later. */
  get passing(): boolean {
    const passing = [408, 429, 500, 502, 503, 504];
    return this.code === "network" || this.code === "timeout" || passing.includes(this.status);
  }
}

export interface Address {
  url: string;
  key: string | undefined;
}

/** Return `url` with a scheme and without slashes at its end; a path stays one of the page's server. */
export function withScheme(url: string): string {
  const bare = url.trim().replace(/\/+$/, "");
  if (bare === "" || bare.startsWith("/") || bare.includes("://")) return bare;
  const here = /^(localhost|127(\.\d{1,3}){3}|0\.0\.0\.0|\[::1\])(:\d+)?(\/|$)/i.test(bare);
  return `${here ? "http" : "https"}://${bare}`;
}

/** Post `body` as JSON and read the answer, within `timeoutMs` milliseconds. */
export function post<T>(
  address: Address,
  path: string,
  body: string,
  timeoutMs: number,
  signal?: AbortSignal,
): Promise<T> {
  const headers = { "content-type": "application/json" };
  return send<T>(address, path, { method: "POST", headers, body }, timeoutMs, signal);
}

/** Get what is at `path`, within `timeoutMs` milliseconds. */
export function get<T>(
  address: Address,
  path: string,
  timeoutMs: number,
  signal?: AbortSignal,
): Promise<T> {
  return send<T>(address, path, { headers: {} }, timeoutMs, signal);
}

/** Send a request and read the answer with `reader`, within `timeoutMs` milliseconds. */
export async function send<T>(
  address: Address,
  path: string,
  request: RequestInit & { headers: Record<string, string> },
  timeoutMs: number,
  signal?: AbortSignal,
  reader: (response: Response) => Promise<T> = read,
): Promise<T> {
  if (address.key !== undefined) request.headers["authorization"] = `Bearer ${address.key}`;
  const stop = new AbortController();
  const abort = () => stop.abort();
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    abort();
  }, timeoutMs);
  signal?.addEventListener("abort", abort);
  if (signal?.aborted) abort();
  try {
    const init: RequestInit = { ...request, signal: stop.signal, credentials: "omit" };
    return await reader(await fetch(address.url + path, init));
  } catch (error) {
    if (error instanceof TactfulError) throw error;
    if (late) throw new TactfulError("timeout", `no answer within ${timeoutMs} ms`);
    if (stop.signal.aborted) throw new TactfulError("aborted", "the call was aborted");
    throw new TactfulError("network", `${address.url} cannot be reached from this page`);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  }
}

/**
 * Send `body` so that it outlives the page, without the question that a browser asks first when a
 * request has headers of its own: so the key lies in the address.
 *
 * @returns the answer, for a page that goes on after all; undefined where only a beacon can be sent.
 */
export function postOnLeave<T>(address: Address, path: string, body: string): Promise<T> | undefined {
  const query = address.key === undefined ? "" : `?key=${encodeURIComponent(address.key)}`;
  const target = address.url + path + query;
  if ("keepalive" in Request.prototype) {
    const init: RequestInit = { method: "POST", body, keepalive: true, credentials: "omit" };
    return fetch(target, init).then((response) => read<T>(response));
  }
  navigator.sendBeacon(target, body);
  return undefined;
}

/** How long to wait after so many failures: full jitter, on top of what the server asked for. */
export function pauseMs(failures: number, error: TactfulError, firstMs: number): number {
  return error.retryAfterMs + Math.random() * Math.min(60_000, firstMs * 2 ** (failures - 1));
}

/** Return the JSON of an answer, or throw the problem that it describes. */
export async function read<T>(response: Response): Promise<T> {
  if (response.ok) {
    return (await response.json().catch((error: unknown) => {
      if (!(error instanceof SyntaxError)) throw error;
      throw new TactfulError("bad_answer", "what answered is no tactful server", response.status);
    })) as T;
  }
  const told = (await response.json().catch(() => ({}))) as { code?: string; detail?: string };
  throw new TactfulError(
    told.code ?? "http",
    told.detail ?? `the server answered with ${response.status}`,
    response.status,
    retryAfterMs(response.headers.get("retry-after")),
  );
}

function retryAfterMs(header: string | null): number {
  if (!header) return 0;
  const seconds = Number(header);
  const pause = Number.isNaN(seconds) ? Date.parse(header) - Date.now() : seconds * 1000;
  return pause > 0 ? pause : 0;
}
