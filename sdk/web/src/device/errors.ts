/** Refusal of this device; its text names the cause and holds no data of the visitor. */
export class DeviceError extends Error {
  override readonly name = "DeviceError";
}

/** Throw a `DeviceError` unless a condition holds. */
export function require(condition: unknown, message: string): asserts condition {
  if (!condition) throw new DeviceError(message);
}
