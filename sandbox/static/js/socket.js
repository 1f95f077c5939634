/**
 * A WebSocket that comes back.
 *
 * States: "closed" (nobody wants it), "connecting", "open", "waiting" (lost,
 * will try again at `retryAt`). Events: "state" on every change of state, and
 * "message" with the frame's text as `detail`.
 */

const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 10_000;

// A connection that lasted this long was a good one: the next loss starts
// again with the first pause. One that dies at once makes pauses longer.
const STABLE_AFTER = 2_000;

// Close codes from here on come from the application, which refused us. Trying
// again would be refused again.
const FIRST_APPLICATION_CODE = 4000;

export class LiveSocket extends EventTarget {
  state = "closed";
  retryAt = 0;
  /** Why the application closed the connection, if it did. */
  refusal = "";

  #path;
  #socket = null;
  #failures = 0;
  #openedAt = 0;
  #timer = 0;

  constructor(path) {
    super();
    this.#path = path;
    // Back from a dead network or from another tab: no need to sit out the pause.
    window.addEventListener("online", () => this.#retryNow());
    document.addEventListener("visibilitychange", () => document.hidden || this.#retryNow());
  }

  connect(path = this.#path) {
    this.#path = path;
    this.#failures = 0;
    this.#abandon();
    this.#open();
  }

  disconnect() {
    this.#abandon();
    this.#enter("closed");
  }

  /** Whether the text was handed to an open connection. */
  send(text) {
    if (this.state !== "open") return false;
    this.#socket.send(text);
    return true;
  }

  #open() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}${this.#path}`);
    this.#socket = socket;
    this.refusal = "";
    // An abandoned socket still fires its close event, which then concerns nobody.
    const current = (handle) => (event) => socket === this.#socket && handle(event);
    socket.onopen = current(() => this.#opened());
    socket.onclose = current((event) => this.#lost(event));
    socket.onmessage = current((event) => this.#emit("message", event.data));
    this.#enter("connecting");
  }

  #opened() {
    this.#openedAt = performance.now();
    this.#enter("open");
  }

  #lost(event) {
    const lasted = this.state === "open" ? performance.now() - this.#openedAt : 0;
    this.#socket = null;
    if (event.code >= FIRST_APPLICATION_CODE) {
      this.refusal = event.reason || `closed with code ${event.code}`;
      this.#enter("closed");
      return;
    }
    if (lasted > STABLE_AFTER) this.#failures = 0;
    this.#wait(pauseAfter(this.#failures++));
  }

  #wait(pause) {
    this.retryAt = Date.now() + pause;
    this.#timer = setTimeout(() => this.#open(), pause);
    this.#enter("waiting");
  }

  #retryNow() {
    if (this.state !== "waiting") return;
    clearTimeout(this.#timer);
    this.#open();
  }

  #abandon() {
    clearTimeout(this.#timer);
    this.#socket?.close(1000);
    this.#socket = null;
  }

  #enter(state) {
    this.state = state;
    this.#emit("state", state);
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/** Doubles with every failure; the random half keeps a thousand pages from returning at once. */
export function pauseAfter(failures) {
  const pause = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** failures);
  return pause / 2 + Math.random() * (pause / 2);
}
