/** Checks the arguments of `connect`. An error names the value and the remedy. */

import { isPlace } from "./places.js";

const DEFAULTS = {
  json: false,
  resume: true,
  protocols: /** @type {string[] | (() => string[])} */ ([]),
  retryBase: 500,
  retryCap: 20_000,
  openTimeout: 10_000,
  heartbeatInterval: 25_000,
  heartbeatTimeout: 10_000,
  bufferSize: 100,
  overflow: /** @type {"drop_oldest" | "drop_newest"} */ ("drop_newest"),
  places: /** @type {Record<string, string>} */ ({}),
  store: /** @type {import("./fast-channels.js").Options["store"] | undefined} */ (undefined),
  storeKey: "",
};

const TIMES = /** @type {const} */ ([
  "retryBase",
  "retryCap",
  "openTimeout",
  "heartbeatInterval",
  "heartbeatTimeout",
]);

const POLICIES = ["drop_oldest", "drop_newest"];

// The limit of setTimeout, which fires at once for a longer time.
export const MAX_TIMEOUT_MS = 2 ** 31 - 1;

/** Returns a WebSocket URL, which may have been relative to the page. @param {string | URL} url */
export function parsed(url) {
  try {
    const found = new URL(url, globalThis.location?.href);
    found.protocol = found.protocol.replace("http", "ws");
    found.hash = "";
    if (["ws:", "wss:"].includes(found.protocol)) return found;
  } catch {
    // Not a URL at all: the same error as for one of another kind.
  }
  throw new TypeError(`${show(url)} is not an address of a WebSocket; give one like "wss://example.org/ws"`);
}

/** Returns the options with defaults. @param {import("./fast-channels.js").Options} options */
export function checked(options) {
  for (const name of Object.keys(options)) {
    if (Object.hasOwn(DEFAULTS, name)) continue;
    throw new TypeError(`there is no option ${name}; there are ${Object.keys(DEFAULTS).join(", ")}`);
  }
  const settings = { ...DEFAULTS, ...options };
  for (const name of TIMES) {
    const value = settings[name];
    if (value > 0 && value <= MAX_TIMEOUT_MS) continue;
    throw new RangeError(`${name} is ${show(value)}; give milliseconds, more than 0 and at most ${MAX_TIMEOUT_MS}`);
  }
  const { bufferSize, overflow, places } = settings;
  if (!Number.isInteger(bufferSize) || bufferSize < 0) {
    throw new RangeError(`bufferSize is ${show(bufferSize)}; give a number of frames, 0 or more`);
  }
  if (!POLICIES.includes(overflow)) {
    throw new TypeError(`overflow is ${show(overflow)}; give one of ${POLICIES.map(show).join(", ")}`);
  }
  for (const [group, place] of Object.entries(places)) {
    if (isPlace(place)) continue;
    throw new TypeError(`places has ${show(place)} for the group ${group}; pass the places of a socket unchanged`);
  }
  return settings;
}

/** Returns a value as an error message shows it. @param {unknown} value */
export function show(value) {
  return typeof value === "string" ? JSON.stringify(value) : String(value);
}
