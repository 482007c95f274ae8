// Parts of a device: messages, shares and one session, for tests and for programs of one's own.

export { concat, fromBase64, hex } from "./bytes.js";
export { Connection, enrolAt } from "./connection.js";
export { DeviceError } from "./errors.js";
export { readInvitation } from "./invitation.js";
export {
  agree,
  decodeEnrolment,
  decodeSession,
  ownMask,
  pairMask,
  thresholdOf,
  weightsDigest,
} from "./messages.js";
export { Double, pack, unpack } from "./msgpack.js";
export { openPackage } from "./package.js";
export { NATIVE, PLAIN, primitives } from "./primitives.js";
export { SecureSum } from "./session.js";
export { SparseSum } from "./sparse.js";
export { split } from "./sharing.js";
export { Model } from "./model.js";
export { WideGaussian } from "./noise.js";
export { likelyWithin } from "./ahead.js";
export { repeatable } from "./draws.js";
export { calibrated, foresee } from "./foresee.js";
export { stepsWithin } from "./pace.js";
export {
  aboutToEvent,
  decide,
  foresightOf,
  holdsOut,
  NOTHING_FIRED,
  readTriggers,
  sound,
  soundLimits,
} from "./triggers.js";
export { coarse, likeliest } from "./intent.js";
export { fitTemperature, PERSONAL } from "./personalise.js";
export { Rounds } from "./rounds.js";
export { latest, training, Vocabulary, windows } from "./tokens.js";
export { batches, clipToNorm, descend, SETTINGS, toGrid, train } from "./training.js";
