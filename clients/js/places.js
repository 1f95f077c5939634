/** Where this client stands in each group: what it presents when it comes back. */

// Bytes of the JSON of places that are presented: as base64 they are a third longer, and
// request lines of more than 8 KiB are refused by many servers and proxies.
const MOST_PRESENTED = 4_500;

// Only so much of it that what is no place at all is noticed: it is for the server to read.
const PLACE = /^[^\s+-]+(-\d+)+(\+\d+(\*\d+)?)?$/;

/** A place for each group, those that changed last at the end. */
export class Places {
  /** @type {Map<string, string>} */
  #places = new Map();
  #store;
  #key;
  #failed;

  /**
   * @param {ReturnType<typeof import("./options.js").checked>} from
   * @param {string} key
   * @param {(error: Error) => void} failed
   */
  constructor({ store, places }, key, failed) {
    this.#store = store;
    this.#key = key;
    this.#failed = failed;
    this.#attempt(() => this.#load(JSON.parse(store?.getItem(key) ?? "{}")));
    this.#load(places);
  }

  get size() {
    return this.#places.size;
  }

  /** @param {string} group */
  has(group) {
    return this.#places.has(group);
  }

  all() {
    return Object.fromEntries(this.#places);
  }

  /** @param {string} group @param {any} place */
  set(group, place) {
    this.#places.delete(group);
    this.#places.set(group, place);
    this.#attempt(() => this.#store?.setItem(this.#key, JSON.stringify(this.all())));
  }

  /** As they go into a query string: those that changed last, as many as fit. */
  presented() {
    const kept = [];
    let size = 2;
    for (const entry of [...this.#places].reverse()) {
      size += JSON.stringify(entry).length;
      if (size > MOST_PRESENTED) break;
      kept.push(entry);
    }
    const bytes = new TextEncoder().encode(JSON.stringify(Object.fromEntries(kept)));
    return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  }

  /** @param {Record<string, string>} places */
  #load(places) {
    for (const [group, place] of Object.entries(places)) if (isPlace(place)) this.#places.set(group, place);
  }

  /** A store may be full, forbidden or broken: it is not tried twice. @param {() => void} action */
  #attempt(action) {
    try {
      action();
    } catch (error) {
      this.#store = undefined;
      // Later: nobody can listen yet to a socket that is being made.
      queueMicrotask(() => this.#failed(/** @type {Error} */ (error)));
    }
  }
}

/** @param {unknown} place */
export function isPlace(place) {
  return typeof place === "string" && PLACE.test(place);
}
