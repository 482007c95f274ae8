// X25519 and Ed25519 by WebCrypto where the browser has them, else by @noble/curves: equal bytes.

import { ed25519, x25519 } from "@noble/curves/ed25519.js";
import { type Bytes, concat } from "./bytes.js";
import { DeviceError } from "./errors.js";

/** X25519 key of a session. */
export interface AgreementKey {
  readonly publicKey: Bytes;
  /** 32 bytes, to be shared among the members. */
  readonly secret: Bytes;
  /** Return the shared secret; throws if the other key has a small order. */
  agree(other: Uint8Array): Promise<Bytes>;
}

/** Ed25519 key of a device. */
export interface Identity {
  readonly publicKey: Bytes;
  sign(text: Uint8Array): Promise<Bytes>;
}

/** Private key of a device: one that no code can read, or 32 bytes in browsers without Ed25519. */
export type IdentityKey = CryptoKeyPair | Bytes;

export interface Primitives {
  agreementKey(secret: Bytes): Promise<AgreementKey>;
  /** Draw a key to be stored. */
  newIdentity(): Promise<IdentityKey>;
  identity(key: IdentityKey): Promise<Identity>;
  verify(publicKey: Uint8Array, signature: Uint8Array, text: Uint8Array): Promise<boolean>;
}

/** Plain JavaScript, for browsers without these curves. */
export const PLAIN: Primitives = {
  async agreementKey(secret) {
    return {
      secret,
      publicKey: x25519.getPublicKey(secret) as Bytes,
      agree: async (other) => x25519.getSharedSecret(secret, other) as Bytes,
    };
  },
  newIdentity: async () => crypto.getRandomValues(new Uint8Array(32)),
  async identity(key) {
    if (!(key instanceof Uint8Array)) return keyPair(key);
    return {
      publicKey: ed25519.getPublicKey(key) as Bytes,
      sign: async (text) => ed25519.sign(text, key) as Bytes,
    };
  },
  async verify(publicKey, signature, text) {
    try {
      return ed25519.verify(signature, text, publicKey, { zip215: false });
    } catch {
      return false;
    }
  },
};

const SIGNING = "Ed25519";

async function keyPair({ publicKey, privateKey }: CryptoKeyPair): Promise<Identity> {
  const raw = await crypto.subtle.exportKey("raw", publicKey);
  return { publicKey: new Uint8Array(raw), sign: signer(privateKey) };
}

function signer(key: CryptoKey): Identity["sign"] {
  return async (text) => new Uint8Array(await crypto.subtle.sign(SIGNING, key, text.slice()));
}

// RFC 8410: a private key is 32 bytes after a constant prefix, which ends with the curve's number.
const prefix = (curve: number): Bytes =>
  Uint8Array.from([48, 46, 2, 1, 0, 48, 5, 6, 3, 43, 101, curve, 4, 34, 4, 32]);
const X25519 = prefix(110);
const ED25519 = prefix(112);

/** The browser's own implementation. */
export const NATIVE: Primitives = {
  async agreementKey(secret) {
    const subtle = crypto.subtle;
    const name = "X25519";
    const key = await subtle.importKey("pkcs8", concat(X25519, secret), name, false, ["deriveBits"]);
    return {
      secret,
      publicKey: x25519.getPublicKey(secret) as Bytes, // WebCrypto does not return it
      async agree(other) {
        const theirs = await subtle.importKey("raw", other.slice(), name, false, []);
        return new Uint8Array(await subtle.deriveBits({ name, public: theirs }, key, 256));
      },
    };
  },
  newIdentity: () =>
    crypto.subtle.generateKey(SIGNING, false, ["sign", "verify"]) as Promise<CryptoKeyPair>,
  async identity(key) {
    if (!(key instanceof Uint8Array)) return keyPair(key);
    const format = concat(ED25519, key);
    const secret = await crypto.subtle.importKey("pkcs8", format, SIGNING, false, ["sign"]);
    return { publicKey: ed25519.getPublicKey(key) as Bytes, sign: signer(secret) };
  },
  async verify(publicKey, signature, text) {
    try {
      const key = await crypto.subtle.importKey("raw", publicKey.slice(), SIGNING, false, ["verify"]);
      return await crypto.subtle.verify(SIGNING, key, signature.slice(), text.slice());
    } catch {
      return false;
    }
  },
};

/** Return the browser's implementation if it has both curves. */
export async function primitives(): Promise<Primitives> {
  const secret = new Uint8Array(32).fill(9);
  try {
    const key = await NATIVE.agreementKey(secret);
    await key.agree(key.publicKey);
    await (await NATIVE.identity(secret)).sign(secret);
    return NATIVE;
  } catch {
    return PLAIN;
  }
}

/** Return the shared secret of two keys; throws a `DeviceError` if the other one is not valid. */
export async function sharedSecret(key: AgreementKey, other: Uint8Array): Promise<Bytes> {
  try {
    return await key.agree(other);
  } catch {
    throw new DeviceError("a public key is not valid");
  }
}
