// Constraints of Unleash on the context of a request: texts, numbers, dates, versions, regular
// expressions and networks.

import { RE2JS } from "re2js";
import { hasOwn } from "./json.js";
import { compareTyped, inNetworks } from "./typed.js";

export interface Constraint {
  contextName: string;
  operator: string;
  value?: string;
  values?: string[];
  inverted?: boolean;
  caseInsensitive?: boolean;
}

/** The user and the request, with the names that Unleash gives them. */
export interface UnleashContext {
  userId?: string;
  sessionId?: string;
  remoteAddress?: string;
  environment?: string;
  appName?: string;
  /** ISO date and time; now, if left out. */
  currentTime?: string;
  properties?: Readonly<Record<string, string | number | null>>;
}

/** Return a value of the context as text; undefined for a missing one. */
export function contextValue(context: UnleashContext, name: string): string | undefined {
  const { properties = {} } = context;
  const own = name !== "properties" && hasOwn(context, name);
  const found = own ? context[name as keyof UnleashContext] : hasOwn(properties, name) && properties[name];
  return typeof found === "string" || typeof found === "number" ? String(found) : undefined;
}

type Check = (left: string, constraint: Constraint) => boolean;

const CHECKS: Readonly<Record<string, Check>> = {
  IN: (left, { values = [] }) => values.includes(left),
  STR_STARTS_WITH: texts((left, right) => left.startsWith(right)),
  STR_ENDS_WITH: texts((left, right) => left.endsWith(right)),
  STR_CONTAINS: texts((left, right) => left.includes(right)),
  NUM_EQ: typed("$number", "$eq"),
  NUM_GT: typed("$number", "$gt"),
  NUM_GTE: typed("$number", "$gte"),
  NUM_LT: typed("$number", "$lt"),
  NUM_LTE: typed("$number", "$lte"),
  DATE_AFTER: typed("$date", "$gt"),
  DATE_BEFORE: typed("$date", "$lt"),
  SEMVER_EQ: typed("$semver", "$eq"),
  SEMVER_GT: typed("$semver", "$gt"),
  SEMVER_GTE: typed("$semver", "$gte"),
  SEMVER_LT: typed("$semver", "$lt"),
  SEMVER_LTE: typed("$semver", "$lte"),
  IN_CIDR: (left, { values = [] }) => inNetworks(left, values),
};

/** Evaluates constraints; it compiles a regular expression once. */
export class ConstraintTest {
  private readonly patterns = new Map<string, RE2JS | null>();

  /** Return whether a constraint holds; an unknown operator never does. */
  holds(constraint: Constraint, context: UnleashContext): boolean {
    const { contextName, operator, inverted = false } = constraint;
    const now = contextName === "currentTime" ? new Date().toISOString() : undefined;
    const left = contextValue(context, contextName) ?? now;
    if (operator === "NOT_IN") {
      return !(left !== undefined && CHECKS["IN"]!(left, constraint)) !== inverted;
    }
    if (operator === "REGEX") {
      return (left !== undefined && this.finds(left, constraint)) !== inverted;
    }
    if (!hasOwn(CHECKS, operator)) return false;
    return (left !== undefined && CHECKS[operator]!(left, constraint)) !== inverted;
  }

  private finds(left: string, { value = "", caseInsensitive = false }: Constraint): boolean {
    const key = `${caseInsensitive}/${value}`;
    if (!this.patterns.has(key)) this.patterns.set(key, compile(value, caseInsensitive));
    return this.patterns.get(key)?.matcher(left).find() ?? false;
  }
}

/** Compile in linear time; null for a pattern that RE2 refuses, such as one that looks ahead. */
function compile(pattern: string, caseInsensitive: boolean): RE2JS | null {
  try {
    return RE2JS.compile(pattern, caseInsensitive ? RE2JS.CASE_INSENSITIVE : 0);
  } catch {
    return null;
  }
}

function texts(holds: (left: string, right: string) => boolean): Check {
  return (left, { values = [], caseInsensitive = false }) => {
    const fold = (text: string) => (caseInsensitive ? text.toLowerCase() : text);
    return values.some((right) => holds(fold(left), fold(right)));
  };
}

function typed(operator: string, comparison: string): Check {
  return (left, { value = "" }) => compareTyped(operator, left, { [comparison]: value });
}
