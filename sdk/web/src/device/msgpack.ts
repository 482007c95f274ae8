// The part of MessagePack that messages use, in its shortest form: equal values give equal bytes.

import { type Bytes, concat, utf8 } from "./bytes.js";
import { require } from "./errors.js";

/** Number that is written as float64, also if it is whole. */
export class Double {
  constructor(readonly value: number) {}
}

export type Value =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | Double
  | Value[]
  | Map<number | bigint | string, Value>;

const DEEPEST = 8;

/** Encode a value; a number must be whole, other ones are a `Double`. */
export function pack(value: Value): Bytes {
  const parts: Uint8Array[] = [];
  write(value, parts);
  return concat(...parts);
}

/** Decode bytes; whole numbers beyond 2^53 are bigints. Throws a `DeviceError`. */
export function unpack(data: Uint8Array): Value {
  const reader = new Reader(data);
  const value = reader.value(0);
  require(reader.at === data.length, "a message has bytes after its end");
  return value;
}

function write(value: Value, parts: Uint8Array[]): void {
  if (value === null) parts.push(Uint8Array.of(0xc0));
  else if (typeof value === "boolean") parts.push(Uint8Array.of(value ? 0xc3 : 0xc2));
  else if (typeof value === "number" || typeof value === "bigint") parts.push(whole(BigInt(value)));
  else if (value instanceof Double) {
    const bytes = new Uint8Array(9);
    bytes[0] = 0xcb;
    new DataView(bytes.buffer).setFloat64(1, value.value);
    parts.push(bytes);
  } else if (typeof value === "string") {
    const bytes = utf8(value);
    parts.push(head(bytes.length, 0xa0, 32, [0xd9, 0xda, 0xdb]), bytes);
  } else if (value instanceof Uint8Array) {
    parts.push(head(value.length, 0, 0, [0xc4, 0xc5, 0xc6]), value);
  } else if (Array.isArray(value)) {
    parts.push(head(value.length, 0x90, 16, [0, 0xdc, 0xdd]));
    for (const part of value) write(part, parts);
  } else {
    parts.push(head(value.size, 0x80, 16, [0, 0xde, 0xdf]));
    for (const [key, part] of value) {
      write(key, parts);
      write(part, parts);
    }
  }
}

function head(length: number, short: number, limit: number, codes: [number, number, number]): Bytes {
  if (length < limit) return Uint8Array.of(short | length);
  if (codes[0] && length < 1 << 8) return Uint8Array.of(codes[0], length);
  return length < 1 << 16 ? sized(codes[1], BigInt(length), 2) : sized(codes[2], BigInt(length), 4);
}

function whole(value: bigint): Bytes {
  require(value >= -(2n ** 63n) && value < 2n ** 64n, "a number does not fit 64 bits");
  if (value >= -32n && value < 128n) return sized(Number(BigInt.asUintN(8, value)), 0n, 0);
  const places = [1, 2, 4, 8] as const;
  for (const [index, bytes] of places.entries()) {
    const bits = BigInt(8 * bytes);
    if (value >= 0n && value < 1n << bits) return sized(0xcc + index, value, bytes);
    if (value < 0n && value >= -(1n << (bits - 1n))) {
      return sized(0xd0 + index, BigInt.asUintN(8 * bytes, value), bytes);
    }
  }
  throw new RangeError("unreachable");
}

function sized(code: number, value: bigint, bytes: number): Bytes {
  const out = new Uint8Array(1 + bytes);
  out[0] = code;
  for (let at = bytes; at > 0; at--) {
    out[at] = Number(value & 0xffn);
    value >>= 8n;
  }
  return out;
}

class Reader {
  at = 0;

  constructor(private readonly data: Uint8Array) {}

  value(depth: number): Value {
    require(depth <= DEEPEST, "a message is nested too deeply");
    const code = this.number(1);
    if (code < 0x80) return code;
    if (code < 0x90) return this.map(code & 15, depth);
    if (code < 0xa0) return this.array(code & 15, depth);
    if (code < 0xc0) return this.text(code & 31);
    if (code >= 0xe0) return code - 256;
    switch (code) {
      case 0xc0:
        return null;
      case 0xc2:
      case 0xc3:
        return code === 0xc3;
      case 0xc4:
      case 0xc5:
      case 0xc6:
        return this.bytes(this.number(1 << (code - 0xc4)));
      case 0xcb:
        return new Double(this.view(8).getFloat64(0));
      case 0xcc:
      case 0xcd:
      case 0xce:
        return this.number(1 << (code - 0xcc));
      case 0xcf:
        return safe(this.view(8).getBigUint64(0));
      case 0xd0:
        return this.view(1).getInt8(0);
      case 0xd1:
        return this.view(2).getInt16(0);
      case 0xd2:
        return this.view(4).getInt32(0);
      case 0xd3:
        return safe(this.view(8).getBigInt64(0));
      case 0xd9:
      case 0xda:
      case 0xdb:
        return this.text(this.number(1 << (code - 0xd9)));
      case 0xdc:
      case 0xdd:
        return this.array(this.number(2 << (code - 0xdc)), depth);
      case 0xde:
      case 0xdf:
        return this.map(this.number(2 << (code - 0xde)), depth);
    }
    return require(false, "a message has a type that messages do not use"), null;
  }

  private array(length: number, depth: number): Value[] {
    // Each element takes a byte or more, so a false length ends with the message.
    return Array.from({ length: this.fits(length) }, () => this.value(depth + 1));
  }

  private map(length: number, depth: number): Map<number | bigint | string, Value> {
    const found = new Map<number | bigint | string, Value>();
    for (let left = this.fits(length); left > 0; left--) {
      const key = this.value(depth + 1);
      require(["number", "bigint", "string"].includes(typeof key), "a key of a map is not valid");
      found.set(key as number | bigint | string, this.value(depth + 1));
    }
    return found;
  }

  private text(length: number): string {
    try {
      return new TextDecoder("utf-8", { fatal: true }).decode(this.bytes(length));
    } catch {
      return require(false, "a text of a message is not UTF-8"), "";
    }
  }

  private bytes(length: number): Bytes {
    const end = this.at + this.fits(length);
    const part = this.data.slice(this.at, end);
    this.at = end;
    return part;
  }

  private number(bytes: number): number {
    const view = this.view(bytes);
    return bytes === 1 ? view.getUint8(0) : bytes === 2 ? view.getUint16(0) : view.getUint32(0);
  }

  private view(length: number): DataView {
    return new DataView(this.bytes(length).buffer);
  }

  private fits(length: number): number {
    require(length <= this.data.length - this.at, "a message ends too early");
    return length;
  }
}

function safe(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}
