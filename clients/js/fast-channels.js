/**
 * A WebSocket that comes back, and is sent what it has missed: the client's side of
 * docs/protocol.md. For browsers and Node 22 or newer, without dependencies.
 */

import { decoded, encoded, envelope } from "./frames.js";
import { LONGEST, checked, parsed, show } from "./options.js";
import { Places } from "./places.js";

/** The sub-protocol that the client offers. */
export const SUBPROTOCOL = "fast-channels.resume.v1";

/**
 * @typedef {"connecting" | "open" | "waiting" | "closed"} State
 *   "waiting": lost, and will try again. "closed": it will not.
 *
 * @typedef {object} StateChange
 * @property {State} state
 * @property {number} [code]    Of the close before "waiting" and "closed"; 1006 if there was none.
 * @property {string} [reason]
 * @property {number} [pause]   Milliseconds that "waiting" will last.
 *
 * @typedef {object} Message
 * @property {any} data             Text, a value with `json`, or a Uint8Array.
 * @property {string | null} group  null, like `position`, for what is not sent again if it is missed.
 * @property {string | null} position
 * @property {boolean} replayed     It was missed, and is made up for.
 *
 * @typedef {object} Resumed        A group was joined; what was missed of it comes next.
 * @property {string} group
 * @property {boolean | null} recovered  false: something is lost. null: it is new to this client.
 * @property {number} missed        How many messages come next.
 * @property {string} position
 *
 * @typedef {object} Events
 * @property {StateChange} state
 * @property {Message} message
 * @property {Resumed} resumed
 * @property {Error} error          A frame or a store that cannot be read or written, or what `protocols` threw.
 *
 * @typedef {object} Options  Times are in milliseconds.
 * @property {boolean} [json]       Frames are JSON, in both directions.
 * @property {boolean} [resume]     Offer the sub-protocol.
 * @property {string[] | (() => string[])} [protocols] Sub-protocols to offer beside it; a function is asked at each attempt.
 * @property {number} [retryBase]   The first wait is a random part of this, and each may be twice as long
 * @property {number} [retryCap]    up to this.
 * @property {number} [openTimeout]
 * @property {number} [heartbeatInterval]  Ask whether the server is there when nothing was heard for this long,
 * @property {number} [heartbeatTimeout]   and give it so long to answer.
 * @property {number} [bufferSize]  Frames that wait for a connection.
 * @property {"drop_oldest" | "drop_newest"} [overflow]  Which frame is lost when there are more.
 * @property {Record<string, string>} [places]  What another socket's `places` were.
 * @property {Pick<Storage, "getItem" | "setItem">} [store]  Keeps places over a reload, like sessionStorage.
 * @property {string} [storeKey]    By default made of the URL.
 */

// Close codes after which coming back would end the same way.
const FINAL = new Set([1000, 1002, 1003, 1007, 1008, 1009, 1010]);

/** @param {string | URL} url @param {Options} [options] */
export function connect(url, options) {
  return new ResumingSocket(url, options);
}

/**
 * Connects at once, and again whenever the connection is lost, until `close()` is called or
 * the server says that it should not.
 *
 * What is sent while there is no connection waits for the next one. What was handed to a
 * connection that died then may be lost, and is not sent again: a message that must arrive
 * needs an answer from the application.
 */
export class ResumingSocket {
  /** Where to connect; a change holds for the next attempt. @type {URL} */
  url;

  /** @type {State} */
  state = "closed";

  /** Whether this connection speaks the sub-protocol, so that what it misses will be sent again. */
  resumable = false;

  /** Frames that `overflow` and `close()` have cost. */
  dropped = 0;

  #settings;
  #places;

  /** @type {{[E in keyof Events]: Set<(detail: Events[E]) => void>}} */
  #handlers = { state: new Set(), message: new Set(), resumed: new Set(), error: new Set() };

  /** The connection that counts. One that was abandoned still fires events. @type {WebSocket | null} */
  #socket = null;

  /** What is sent when there is a connection. @type {(string | Uint8Array<ArrayBuffer>)[]} */
  #buffer = [];

  /** Ends an attempt that takes too long, or a wait. @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /** The next step of the heartbeat. @type {ReturnType<typeof setTimeout> | undefined} */
  #beat;

  // Attempts since a connection that lasted, and when, by performance.now(), the last one
  // opened, when something was heard of it, and before when the server wants no other.
  #failures = 0;
  #openedAt = 0;
  #heardAt = 0;
  #notBefore = 0;

  // Browsers fail a connection whose server chooses none of the sub-protocols. So a server
  // of which it is not known that it speaks ours is offered nothing every other time.
  #speaks = false;
  #offered = false;

  /** Ends the listeners on the page. */
  #page = new AbortController();

  /** @param {string | URL} url @param {Options} [options] */
  constructor(url, options = {}) {
    this.url = parsed(url);
    this.#settings = checked(options);
    const key = this.#settings.storeKey || `fast-channels:${this.url}`;
    this.#places = new Places(this.#settings, key, (error) => this.#emit("error", error));
    this.#speaks = this.#places.size > 0;
    this.connect();
  }

  /** Up to where each group was received. Given to another socket as `places`, it goes on there. */
  get places() {
    return this.#places.all();
  }

  /** Frames that wait for a connection. */
  get buffered() {
    return this.#buffer.length;
  }

  /**
   * Call a handler for each event from now on; the function that is returned ends that.
   * An error of a handler is reported, and changes nothing for the socket or other handlers.
   *
   * @template {keyof Events} E
   * @param {E} event
   * @param {(detail: Events[E]) => void} handler
   * @returns {() => void}
   */
  on(event, handler) {
    const handlers = this.#handlers[event];
    if (!handlers) {
      const known = Object.keys(this.#handlers).join(", ");
      throw new TypeError(`there is no event ${show(event)}; there are ${known}`);
    }
    handlers.add(handler);
    return () => void handlers.delete(handler);
  }

  /**
   * Send text, bytes (an ArrayBuffer or a view of one), or with `json` any value that JSON has.
   *
   * Returns whether it was handed to a connection or waits for one; false means that it is lost.
   *
   * @param {any} data
   * @returns {boolean}
   */
  send(data) {
    const frame = encoded(data, this.#settings.json);
    if (this.state === "open" && this.#socket?.readyState === WebSocket.OPEN) {
      this.#transmit(frame);
      return true;
    }
    return this.#keep(frame);
  }

  /** Connect again after "closed", or now instead of waiting; but not before the server allows it. */
  connect() {
    if (this.state === "closed") {
      this.#watchPage();
      this.#open();
    } else if (this.state === "waiting") {
      this.#failures = 0;
      this.#schedule(this.#notBefore - performance.now());
    }
  }

  /** Close with 1000, for good. What waits for a connection is dropped. */
  close(reason = "") {
    if (this.state === "closed") return;
    this.#socket?.close(1000, reason);
    this.#end(1000, reason);
  }

  // -- connections -----------------------------------------------------------

  #open() {
    const { resume, openTimeout } = this.#settings;
    const protocols = this.#protocols();
    this.#offered = resume && (this.#speaks || !this.#offered);
    const url = new URL(this.url);
    if (this.#offered && this.#places.size) {
      url.search += `${url.search ? "&" : "?"}resume=${this.#places.presented()}`;
    }
    const socket = new WebSocket(url, this.#offered ? [SUBPROTOCOL, ...protocols] : protocols);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    /** @template T @param {(event: T) => void} handle @returns {(event: T) => void} */
    const current = (handle) => (event) => void (socket === this.#socket && handle(event));
    socket.onopen = current(() => this.#opened(socket));
    socket.onmessage = current((event) => this.#received(event.data));
    socket.onclose = current((event) => this.#lost(event.code, event.reason));
    this.#timer = setTimeout(() => this.#abandon("it did not open in time"), openTimeout);
    this.#enter({ state: "connecting" });
  }

  #protocols() {
    const { protocols } = this.#settings;
    try {
      return typeof protocols === "function" ? protocols() : protocols;
    } catch (error) {
      this.#emit("error", /** @type {Error} */ (error));
      return [];
    }
  }

  /** @param {WebSocket} socket */
  #opened(socket) {
    clearTimeout(this.#timer);
    this.#openedAt = this.#heardAt = performance.now();
    this.resumable = socket.protocol === SUBPROTOCOL;
    this.#speaks ||= this.resumable;
    // The next attempt offers the sub-protocol again, whatever this one did.
    this.#offered = false;
    this.#listen();
    // Before anybody hears of the connection, and sends more.
    for (const frame of this.#buffer.splice(0)) this.#transmit(frame);
    this.#enter({ state: "open" });
  }

  /** @param {number} code @param {string} reason */
  #lost(code, reason) {
    if (FINAL.has(code) || (code >= 4000 && code <= 4999)) return this.#end(code, reason);
    const lasted = this.state === "open" ? performance.now() - this.#openedAt : 0;
    if (lasted > this.#longestPause()) this.#failures = 0;
    // Random from 0 up, so that thousands who lost the same server do not return together.
    const early = Math.max(0, this.#notBefore - performance.now());
    const pause = Math.min(LONGEST, early + Math.random() * this.#longestPause());
    this.#failures += 1;
    this.#release();
    this.#schedule(pause);
    this.#enter({ state: "waiting", code, reason, pause });
  }

  #longestPause() {
    return Math.min(this.#settings.retryCap, this.#settings.retryBase * 2 ** this.#failures);
  }

  /** @param {number} pause */
  #schedule(pause) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#open(), Math.min(LONGEST, Math.max(0, pause)));
  }

  /** Take a connection for lost that does not know it yet, and would not for minutes. @param {string} reason */
  #abandon(reason) {
    this.#socket?.close(3008, reason);
    this.#lost(1006, reason);
  }

  /** @param {number} code @param {string} reason */
  #end(code, reason) {
    this.#release();
    this.#page.abort();
    this.#failures = 0;
    this.dropped += this.#buffer.splice(0).length;
    this.#enter({ state: "closed", code, reason });
  }

  #release() {
    clearTimeout(this.#timer);
    clearTimeout(this.#beat);
    this.#socket = null;
    this.resumable = false;
  }

  /** Be there when the network is, and when somebody looks. */
  #watchPage() {
    this.#page = new AbortController();
    const { signal } = this.#page;
    const wake = () => (this.state === "open" ? this.#probe() : this.connect());
    globalThis.addEventListener?.("online", wake, { signal });
    globalThis.document?.addEventListener("visibilitychange", () => document.hidden || wake(), { signal });
  }

  // -- heartbeat -------------------------------------------------------------

  /** Wait for silence. One timer per interval, and not one per frame. */
  #listen() {
    clearTimeout(this.#beat);
    const left = this.#settings.heartbeatInterval - (performance.now() - this.#heardAt);
    if (left > 0) this.#beat = setTimeout(() => this.#listen(), left);
    else this.#probe();
  }

  /** Ask for a sign of life. A server that does not speak the sub-protocol cannot be asked. */
  #probe() {
    if (!this.resumable) return;
    clearTimeout(this.#beat);
    const asked = performance.now();
    this.#socket?.send(JSON.stringify({ ping: Math.round(asked) }));
    this.#beat = setTimeout(() => {
      if (this.#heardAt >= asked) this.#listen();
      else this.#abandon("nothing was heard of the server");
    }, this.#settings.heartbeatTimeout);
  }

  // -- frames ----------------------------------------------------------------

  /** @param {string | Uint8Array<ArrayBuffer>} frame */
  #transmit(frame) {
    const text = typeof frame === "string" && this.resumable;
    this.#socket?.send(text ? JSON.stringify({ t: frame }) : frame);
  }

  /** Let a frame wait for a connection. @param {string | Uint8Array<ArrayBuffer>} frame */
  #keep(frame) {
    const { bufferSize, overflow } = this.#settings;
    const full = this.#buffer.length >= bufferSize;
    if (this.state === "closed" || full) this.dropped += 1;
    if (this.state === "closed" || (full && (overflow === "drop_newest" || !bufferSize))) return false;
    if (full) this.#buffer.shift();
    this.#buffer.push(frame);
    return true;
  }

  /** @param {string | ArrayBuffer} data */
  #received(data) {
    this.#heardAt = performance.now();
    if (this.resumable) this.#understand(data);
    else if (typeof data === "string") this.#message({ t: data });
    else this.#deliver(new Uint8Array(data), {});
  }

  /** One frame of the sub-protocol. What is not known is passed over. @param {any} data */
  #understand(data) {
    const frame = envelope(data);
    if ("ping" in frame) this.#socket?.send(JSON.stringify({ pong: frame.ping }));
    // Any frame is a sign of life; this one is the answer, and ends the waiting for it.
    if ("pong" in frame) this.#listen();
    if (frame.retry > 0) this.#notBefore = performance.now() + frame.retry * 1000;
    for (const [group, joined] of Object.entries(frame.resume ?? {})) this.#joined(group, joined);
    if ("t" in frame || "j" in frame || "b" in frame) this.#message(frame);
    for (const [group, position] of Object.entries(frame.at ?? {})) this.#places.set(group, position);
  }

  /** @param {string} group @param {any} joined */
  #joined(group, { recovered, missed = 0, position }) {
    // There are more places than are presented, and of the others the server knows nothing.
    const outcome = recovered ?? (this.#places.has(group) ? false : null);
    this.#places.set(group, position);
    this.#emit("resumed", { group, recovered: outcome, missed, position });
  }

  /** @param {any} frame */
  #message(frame) {
    // The place first: a frame that cannot be read would not be readable the next time.
    if (frame.p) this.#places.set(frame.p[0], `${frame.p[1]}+${frame.p[2] + 1}`);
    try {
      this.#deliver(decoded(frame, this.#settings.json), frame);
    } catch (error) {
      this.#emit("error", /** @type {Error} */ (error));
    }
  }

  /** @param {any} data @param {any} frame */
  #deliver(data, { p: [group, position] = [null, null], replay = false }) {
    this.#emit("message", { data, group, position, replayed: replay });
  }

  // -- events ----------------------------------------------------------------

  /** @param {StateChange} change */
  #enter(change) {
    this.state = change.state;
    this.#emit("state", change);
  }

  /** @template {keyof Events} E @param {E} event @param {Events[E]} detail */
  #emit(event, detail) {
    const handlers = this.#handlers[event];
    if (event === "error" && !handlers.size) report(detail);
    for (const handler of [...handlers]) {
      try {
        handler(detail);
      } catch (error) {
        report(error);
      }
    }
  }
}

/** As an error that nobody catches, where the platform has a way to say so. @param {unknown} error */
function report(error) {
  if (typeof reportError === "function") reportError(error);
  else console.error(error);
}
