/** The places of a client in its groups, which the client presents when it reconnects. */

// Bytes of JSON. Base64 makes them a third longer, and many servers and proxies refuse request
// lines of more than 8 KiB.
const MAX_PLACES_BYTES = 4_500;

// Detects values that are not places at all. Only the server reads the rest.
const PLACE = /^[^\s+-]+(-\d+)+(\+\d+(\*\d+)?)?$/;

/** One place for each group, the latest change last. */
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

  /** Returns the value for the query string: the places that changed last, as many as fit. */
  presented() {
    const kept = [];
    let size = 2;
    for (const entry of [...this.#places].reverse()) {
      size += JSON.stringify(entry).length;
      if (size > MAX_PLACES_BYTES) break;
      kept.push(entry);
    }
    const bytes = new TextEncoder().encode(JSON.stringify(Object.fromEntries(kept)));
    return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  }

  /** @param {Record<string, string>} places */
  #load(places) {
    for (const [group, place] of Object.entries(places)) if (isPlace(place)) this.#places.set(group, place);
  }

  /** Uses the store. After an error, because it is full, forbidden or broken, it is not used again. @param {() => void} action */
  #attempt(action) {
    try {
      action();
    } catch (error) {
      this.#store = undefined;
      // Later, because a socket has no listeners yet while it is constructed.
      queueMicrotask(() => this.#failed(/** @type {Error} */ (error)));
    }
  }
}

/** @param {unknown} place */
export function isPlace(place) {
  return typeof place === "string" && PLACE.test(place);
}
