// Triggers of foresights, as in Python: when one fires, how often, for whom, and what a server is told.

import { bucket } from "../flags/hash.js";
import { DeviceError, require } from "./errors.js";
import { DAY_S } from "./pace.js";
import type { StoredVisit } from "./store.js";

const PREFIX = "foresight:";
const MOST_CATEGORIES = 100;
const MOST_KNOTS = 1_000;
/** Days that were left whose counts are kept, in case the clock returns to them. */
const KEPT_DAYS = 4;

/** Map of the model's probability to a calibrated one, as `tactful federated calibrate` writes it. */
export interface Calibration {
  readonly source: string;
  readonly questions: number;
  readonly raw: readonly number[];
  readonly calibrated: readonly number[];
}

/** Trigger that fires if the visitor is likely to choose a category soon; fields as in the shop's file. */
export interface Trigger {
  /** Unique on the device. */
  readonly name: string;
  /** Categories, any of which counts. */
  readonly categories: readonly string[];
  /** Number of categories to look ahead; 3 if left out. */
  readonly steps?: number;
  /** Days to look ahead instead. */
  readonly days?: number | null;
  /** Calibrated probability from which it fires; 0.5 if left out. */
  readonly threshold?: number;
  /** Probability below which it can fire again after a wrong foresight; 0.25 if left out. */
  readonly rearm?: number;
  /** Kind of the action; visitors notice all but `prefetch`, the default. */
  readonly action?: "prefetch" | "remind" | "offer";
  /** Contents of the action for the page. */
  readonly payload?: Readonly<Record<string, unknown>>;
  /** Public, coarse name of the categories, for a server. */
  readonly group?: string;
  /** Largest number of foresights a day, held-out ones too; 3 if left out. */
  readonly most_per_day?: number;
  /** Share of the visitors for whom no action is taken; 0 if left out. */
  readonly holdout?: number;
  /** Name of the holdout; `coupon:NAME` is that of a campaign. */
  readonly holdout_name?: string;
  readonly calibration?: Calibration | null;
  /** Shares of 0, 1, … categories within `days` among public histories. */
  readonly pace?: readonly number[];
}

/** Trigger with all its fields, each in its range. */
export type Sound = Required<Trigger>;

/** Limits on all actions that a visitor notices. */
export interface TriggerLimits {
  /** Largest number of them a day; 3 if left out. */
  readonly most_per_day?: number;
  /** Least minutes between two; 60 if left out. */
  readonly gap_minutes?: number;
  /** First hour of the day without any and the first one after them; 22 and 8 if left out. */
  readonly quiet?: readonly [number, number] | null;
}

/** Triggers and limits that a shop gives to devices. */
export interface TriggerFile {
  readonly triggers: readonly Trigger[];
  readonly limits?: TriggerLimits;
}

/** Fired trigger. */
export interface Foresight {
  /** Random. */
  readonly id: string;
  readonly trigger: string;
  readonly action: Sound["action"];
  /** Likeliest category of the trigger. */
  readonly category: string;
  readonly probability: number;
  /** Categories within which it comes; null by time. */
  readonly steps: number | null;
  /** Days within which it comes; null by steps. */
  readonly days: number | null;
  /** Seconds since the epoch. */
  readonly at: number;
  /** No action is to be taken, so that the effect of actions can be measured. */
  readonly held_out: boolean;
  readonly group: string;
  readonly payload: Readonly<Record<string, unknown>>;
}

/** Consent to tell a server of a foresight; each level includes those before. */
export const TELLING = ["nothing", "moment", "group", "category"] as const;
export type Telling = (typeof TELLING)[number];

/** Foresight that is not over, or was wrong and is not rearmed. */
interface Open {
  readonly at: number;
  /** Number of the latest visit when it fired, and of its categories then. */
  readonly visit: number;
  readonly lines: number;
  /** Whether the probability fell below `rearm` since. */
  readonly low: boolean;
}

/** Foresights of a day by trigger, and how many of them were noticed. */
interface DayCounts {
  /** Local day, counted from 1970. */
  readonly day: number;
  readonly today: Readonly<Record<string, number>>;
  readonly noticed: number;
}

/** State of the triggers, saved before any action. */
export interface TriggerState extends DayCounts {
  /** Counts of the days that were left last, in this order. */
  readonly others: readonly DayCounts[];
  readonly noticedAt: number;
  readonly open: Readonly<Record<string, Open>>;
  /** Foresights that a server has not taken. */
  readonly untold: readonly Foresight[];
}

export const NOTHING_FIRED: TriggerState = {
  day: 0,
  today: {},
  noticed: 0,
  others: [],
  noticedAt: 0,
  open: {},
  untold: [],
};

/** Present of a device. */
export interface Moment {
  /** Seconds since the epoch. */
  readonly now: number;
  /** Local day, counted from 1970, and the hour of it. */
  readonly day: number;
  readonly hour: number;
  /** Visits by time. */
  readonly visits: readonly StoredVisit[];
}

/** Calibrated probability of a trigger, and its likeliest category. */
export interface Likely {
  readonly probability: number;
  readonly category: string;
}

/** Return the present of a visitor in the time zone of the browser. */
export function momentOf(ms: number, visits: readonly StoredVisit[]): Moment {
  const local = new Date(ms);
  const day = Math.floor((ms - 60_000 * local.getTimezoneOffset()) / (1000 * DAY_S));
  return { now: ms / 1000, day, hour: local.getHours() + local.getMinutes() / 60, visits };
}

/** Return a trigger with all its fields; throws a `DeviceError` for one that is out of range. */
export function sound(trigger: Trigger): Sound {
  const all: Sound = {
    name: trigger.name,
    categories: trigger.categories,
    steps: trigger.steps ?? 3,
    days: trigger.days ?? null,
    threshold: trigger.threshold ?? 0.5,
    rearm: trigger.rearm ?? 0.25,
    action: trigger.action ?? "prefetch",
    payload: trigger.payload ?? {},
    group: trigger.group ?? "",
    most_per_day: trigger.most_per_day ?? 3,
    holdout: trigger.holdout ?? 0,
    holdout_name: trigger.holdout_name ?? "",
    calibration: trigger.calibration ?? null,
    pace: trigger.pace ?? [],
  };
  require(typeof all.name === "string" && all.name.trim(), "a trigger has no name: give one");
  const name = `trigger ${all.name}`;
  const unknown = Object.keys(trigger).find((field) => !(field in all));
  require(unknown === undefined, `${name} has a field ${unknown}, which this version lacks`);
  const { categories, steps, days, threshold, rearm, holdout } = all;
  const texts = Array.isArray(categories) && categories.every((each) => typeof each === "string");
  const listed = texts && categories.length > 0 && categories.length <= MOST_CATEGORIES;
  require(listed, `${name}: give 1 to ${MOST_CATEGORIES} categories`);
  const whole = Number.isInteger(steps) && steps >= 1 && steps <= 1_000;
  require(whole, `${name}: steps is ${steps}: give 1 to 1,000`);
  require(days === null || (days > 0 && days <= 365), `${name}: days is ${days}: give more than 0, at most 365`);
  require(
    0 <= rearm && rearm <= threshold && threshold <= 1 && threshold > 0,
    `${name} needs 0 <= rearm <= threshold <= 1 and threshold > 0, not ${rearm} and ${threshold}`,
  );
  require(["prefetch", "remind", "offer"].includes(all.action), `${name}: unknown action ${all.action}`);
  require(all.most_per_day >= 1, `${name}: most_per_day is ${all.most_per_day}: give 1`);
  require(holdout >= 0 && holdout < 1, `${name}: holdout is ${holdout}: give 0 to below 1`);
  const total = all.pace.reduce((sum, share) => sum + share, 0);
  const shares = all.pace.every((share) => share >= 0 && share <= 1) && total < 1.001;
  require(shares, `${name}: pace must be shares whose sum is 1`);
  if (all.calibration) checkCalibration(all.calibration, name);
  return all;
}

/** Return triggers with all their fields; throws a `DeviceError` if two have one name. */
export function soundAll(triggers: readonly Trigger[]): Sound[] {
  const names = new Set(triggers.map(({ name }) => name));
  require(names.size === triggers.length, "two triggers have one name: give each its own");
  return triggers.map(sound);
}

/** Return limits with all their fields; throws a `DeviceError` for one that is out of range. */
export function soundLimits(limits: TriggerLimits): Required<TriggerLimits> {
  const { most_per_day = 3, gap_minutes = 60, quiet = [22, 8], ...rest } = limits;
  const [unknown] = Object.keys(rest);
  require(unknown === undefined, `the limits have a field ${unknown}, which this version lacks`);
  require(most_per_day >= 0, `most_per_day is ${most_per_day}: give 0 or more`);
  require(gap_minutes >= 0 && gap_minutes < Infinity, "gap_minutes must be 0 or more");
  const hours = quiet ?? [0, 0];
  const right = hours.length === 2 && hours.every((hour) => hour >= 0 && hour <= 24);
  require(right, `quiet is ${quiet}: give two hours, 0 to 24`);
  return { most_per_day, gap_minutes, quiet };
}

/** Read the JSON text of a shop's file; throws a `DeviceError` unless all is in range and known. */
export function readTriggers(json: string, has: (category: string) => boolean): TriggerFile {
  let file: TriggerFile;
  try {
    file = JSON.parse(json) as TriggerFile;
  } catch {
    throw new DeviceError("the triggers are not JSON: download them from the shop");
  }
  require(Array.isArray(file?.triggers), "the file has no triggers");
  const unknown = Object.keys(file).find((field) => field !== "triggers" && field !== "limits");
  require(unknown === undefined, `the file of triggers has a field ${unknown}, which this version lacks`);
  const triggers = soundAll(file.triggers);
  for (const { name, categories } of triggers) {
    const missing = categories.find((category) => !has(category));
    require(missing === undefined, `trigger ${name}: the catalogue lists no category ${missing}`);
  }
  return { triggers, limits: soundLimits(file.limits ?? {}) };
}

/** Return whether no action is taken for a visitor: always the same, as on a server. */
export function holdsOut(trigger: Sound, unit: string): boolean {
  const name = trigger.holdout_name || PREFIX + trigger.name;
  return bucket(`__holdout:${name}`, unit, 2)! < trigger.holdout;
}

/** Return the next state, and whether a trigger fires now. */
export function decide(
  before: TriggerState,
  trigger: Sound,
  likely: Likely,
  moment: Moment,
  limits: Required<TriggerLimits>,
): [TriggerState, boolean] {
  let state = onDay(before, moment.day);
  const { name } = trigger;
  const { [name]: opened, ...rest } = state.open;
  const still = opened && stillOpen(trigger, opened, likely, moment);
  if (opened) state = { ...state, open: still ? { ...rest, [name]: still } : rest };
  if (still || likely.probability < trigger.threshold) return [state, false];
  const count = state.today[name] ?? 0;
  if (count >= trigger.most_per_day) return [state, false];
  const noticed = trigger.action !== "prefetch";
  if (noticed && !mayNotice(state, moment, limits)) return [state, false];
  const latest = newest(moment.visits);
  const open = { at: moment.now, visit: latest?.number ?? 0, lines: latest?.categories.length ?? 0, low: false };
  return [
    {
      ...state,
      today: { ...state.today, [name]: count + 1 },
      noticed: state.noticed + Number(noticed),
      noticedAt: noticed ? moment.now : state.noticedAt,
      open: { ...state.open, [name]: open },
    },
    true,
  ];
}

/** Return the foresight of a trigger that fires. */
export function foresightOf(
  trigger: Sound,
  { probability, category }: Likely,
  at: number,
  id: string,
  held_out: boolean,
): Foresight {
  const { name, action, days, group, payload } = trigger;
  const ahead = { steps: days === null ? trigger.steps : null, days };
  return { id, trigger: name, action, category, probability, ...ahead, at, held_out, group, payload };
}

/** Return the event for `POST /v1/events`; undefined if the visitor consents to none. */
export function aboutToEvent(foresight: Foresight, telling: Telling) {
  if (telling === "nothing") return undefined;
  const { group, trigger, category, steps, days } = foresight;
  const properties = {
    probability: Math.floor(10 * foresight.probability) / 10,
    ...(telling !== "moment" && group && { group }),
    ...(telling === "category" && { trigger, category }),
    ...(telling === "category" && steps !== null && { steps }),
    ...(telling === "category" && days !== null && { days }),
  };
  return {
    event_id: PREFIX + foresight.id,
    type: `x.about_to_${foresight.held_out ? "withheld" : foresight.action}` as const,
    timestamp: Math.floor(1000 * foresight.at),
    properties,
  };
}

/** Event of a foresight. */
export type AboutTo = NonNullable<ReturnType<typeof aboutToEvent>>;

function checkCalibration({ raw, calibrated }: Calibration, name: string): void {
  const knots = raw.length > 0 && raw.length === calibrated.length && raw.length <= MOST_KNOTS;
  require(knots, `${name}: a calibration has 1 to ${MOST_KNOTS} knots of both kinds`);
  const inside = [...raw, ...calibrated].every((value) => value >= 0 && value <= 1);
  const rises = raw.every((value, at) => at === 0 || value > raw[at - 1]!);
  const keeps = calibrated.every((value, at) => at === 0 || value >= calibrated[at - 1]!);
  require(inside && rises && keeps, `${name}: a calibration must rise within 0 to 1`);
}

/**
 * Return the state with the counts of a day; one before the latest inherits those as well.
 *
 * So setting a clock back frees nothing, and one that was far ahead blocks no later day.
 */
function onDay(state: TriggerState, day: number): TriggerState {
  if (day === state.day) return state;
  const left: DayCounts = { day: state.day, today: state.today, noticed: state.noticed };
  let counts = state.others.find((known) => known.day === day) ?? { day, today: {}, noticed: 0 };
  if (day < state.day) {
    const today: Record<string, number> = { ...counts.today };
    for (const [name, fired] of Object.entries(left.today)) today[name] = Math.max(fired, today[name] ?? 0);
    counts = { day, today, noticed: Math.max(left.noticed, counts.noticed) };
  }
  const others = state.others.filter((known) => known.day !== day);
  const isUsed = left.noticed > 0 || Object.keys(left.today).length > 0;
  return { ...state, ...counts, others: (isUsed ? [...others, left] : others).slice(-KEPT_DAYS) };
}

function mayNotice(state: TriggerState, moment: Moment, limits: Required<TriggerLimits>): boolean {
  const gap = Math.abs(moment.now - state.noticedAt); // a clock may have been set back a little
  const isFree = state.noticed < limits.most_per_day && gap >= 60 * limits.gap_minutes;
  return isFree && !isQuiet(limits.quiet, moment.hour);
}

function isQuiet(quiet: readonly [number, number] | null, hour: number): boolean {
  if (!quiet) return false;
  const [first, after] = quiet;
  return first <= after ? first <= hour && hour < after : hour >= first || hour < after;
}

/** Return the foresight, or undefined if its trigger may fire again. */
function stillOpen(trigger: Sound, opened: Open, likely: Likely, moment: Moment): Open | undefined {
  const wanted = new Set(trigger.categories);
  // A visit of a page goes on: what was looked at in it after the firing counts, too.
  const later = moment.visits
    .filter(({ number }) => number >= opened.visit)
    .map(({ number, categories }) => (number > opened.visit ? categories : categories.slice(opened.lines)));
  if (later.some((categories) => categories.some((category) => wanted.has(category)))) return undefined;
  const low = opened.low || likely.probability < trigger.rearm;
  const steps = later.reduce((sum, categories) => sum + new Set(categories).size, 0);
  // One that fired while the clock was ahead would be open until that time.
  const at = Math.min(opened.at, moment.now);
  const over = trigger.days === null ? steps >= trigger.steps : moment.now >= at + trigger.days * DAY_S;
  return over && low ? undefined : { ...opened, at, low };
}

function newest(visits: readonly StoredVisit[]): StoredVisit | undefined {
  return visits.reduce<StoredVisit | undefined>(
    (latest, visit) => (latest && latest.number > visit.number ? latest : visit),
    undefined,
  );
}
