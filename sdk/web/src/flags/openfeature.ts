// OpenFeature provider for web pages: code that reads flags through OpenFeature gets those of `Flags`.

import {
  ErrorCode,
  type EvaluationContext,
  type FlagMetadata,
  type JsonValue,
  type Logger,
  OpenFeatureEventEmitter,
  type Provider,
  ProviderEvents,
  type ResolutionDetails,
  StandardResolutionReasons,
} from "@openfeature/web-sdk";
import type { Flags } from "./client.js";
import type { Evaluation } from "./explain.js";
import type { Json, JsonObject } from "./json.js";

const REASONS: Readonly<Record<Evaluation["source"], string>> = {
  default: StandardResolutionReasons.DEFAULT,
  force: StandardResolutionReasons.TARGETING_MATCH,
  experiment: StandardResolutionReasons.SPLIT,
  prerequisite: StandardResolutionReasons.DISABLED,
  unknown: StandardResolutionReasons.ERROR,
  cyclic: StandardResolutionReasons.ERROR,
  remote: StandardResolutionReasons.UNKNOWN,
  off: StandardResolutionReasons.DISABLED,
};

/**
 * Provider of the flags of one `Flags`. The targeting key becomes the attribute `id`, all other values
 * of the context become attributes of the same name. They replace those of `flags`; an empty context at
 * the start leaves them.
 *
 * Register it with `OpenFeature.setProvider(new TactfulProvider(flags))`. The page makes and closes
 * `flags`.
 */
export class TactfulProvider implements Provider {
  readonly metadata = { name: "tactful" };
  readonly runsOn = "client";
  readonly events = new OpenFeatureEventEmitter();

  private unsubscribe: (() => void) | undefined;

  constructor(private readonly flags: Flags) {}

  async initialize(context: EvaluationContext = {}): Promise<void> {
    await this.flags.ready();
    if (Object.keys(context).length > 0) await this.flags.setAttributes(attributesOf(context));
    const changed = () => this.events.emit(ProviderEvents.ConfigurationChanged);
    this.unsubscribe ??= this.flags.onChange(changed);
  }

  async onClose(): Promise<void> {
    this.unsubscribe?.();
    this.unsubscribe = undefined;
  }

  async onContextChange(_old: EvaluationContext, context: EvaluationContext): Promise<void> {
    await this.flags.setAttributes(attributesOf(context));
  }

  resolveBooleanEvaluation(key: string, fallback: boolean): ResolutionDetails<boolean> {
    return this.resolve(key, fallback, (value) => typeof value === "boolean");
  }

  resolveStringEvaluation(key: string, fallback: string): ResolutionDetails<string> {
    return this.resolve(key, fallback, (value) => typeof value === "string");
  }

  resolveNumberEvaluation(key: string, fallback: number): ResolutionDetails<number> {
    return this.resolve(key, fallback, (value) => typeof value === "number");
  }

  resolveObjectEvaluation<T extends JsonValue>(
    key: string,
    fallback: T,
    _context?: EvaluationContext,
    _logger?: Logger,
  ): ResolutionDetails<T> {
    return this.resolve(key, fallback, (value) => typeof value === "object");
  }

  private resolve<T>(key: string, fallback: T, fits: (value: Json) => boolean): ResolutionDetails<T> {
    const found = this.flags.explain(key);
    const { source, value, arm } = found;
    if (source === "unknown" || source === "cyclic") {
      const errorCode = source === "unknown" ? ErrorCode.FLAG_NOT_FOUND : ErrorCode.GENERAL;
      const errorMessage = `flag "${key}": ${source}`;
      return { value: fallback, reason: REASONS[source], errorCode, errorMessage };
    }
    if (value === null) return { value: fallback, reason: REASONS[source] };
    if (!fits(value)) {
      const reason = StandardResolutionReasons.ERROR;
      const errorMessage = `flag "${key}" has a value of another type`;
      return { value: fallback, reason, errorCode: ErrorCode.TYPE_MISMATCH, errorMessage };
    }
    this.flags.value<Json>(key, value); // an arm that is applied is an exposure
    const variant = arm === null ? {} : { variant: arm };
    const flagMetadata = metadataOf(found, this.flags.version);
    return { value: value as T, reason: REASONS[source]!, ...variant, flagMetadata };
  }
}

function metadataOf({ ruleId, experiment }: Evaluation, version: number): FlagMetadata {
  return { version, ...(ruleId && { ruleId }), ...(experiment && { experiment }) };
}

/** Dates become texts, as in JSON. */
function attributesOf({ targetingKey, ...rest }: EvaluationContext): JsonObject {
  const attributes = JSON.parse(JSON.stringify(rest)) as JsonObject;
  return targetingKey ? { ...attributes, id: targetingKey } : attributes;
}
