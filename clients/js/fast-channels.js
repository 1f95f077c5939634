/**
 * A WebSocket that reconnects and receives the messages it missed: a client of the protocol in
 * docs/protocol.md. For browsers and Node 22 or newer, without dependencies.
 */

import { decoded, encoded, envelope } from "./frames.js";
import { MAX_TIMEOUT_MS, checked, parsed, show } from "./options.js";
import { Places } from "./places.js";

/** The sub-protocol that the client offers. A server that supports resuming chooses it. */
export const SUBPROTOCOL = "fast-channels.resume.v1";

/**
 * @typedef {"connecting" | "open" | "waiting" | "closed"} SocketState
 *   "waiting": disconnected until the next attempt. "closed": disconnected, without another attempt.
 *
 * @typedef {object} StateChange
 * @property {SocketState} state  The new state.
 * @property {number} [code]    The close code before "waiting" and "closed"; 1006 without a close frame.
 * @property {string} [reason]  The reason in the close frame.
 * @property {number} [pause]   The duration of "waiting", in milliseconds.
 *
 * @typedef {object} Message
 * @property {any} data             Text, with `json` a value, or a Uint8Array.
 * @property {string | null} group  The group of the message; null if the message is never replayed.
 * @property {string | null} position  The position of the message in its group, or null.
 * @property {boolean} replayed     True if the client had missed the message and receives it now.
 *
 * @typedef {object} Resumed        The consumer joined a group. The missed messages of it come next.
 * @property {string} group         The name of the group.
 * @property {boolean | null} recovered  false if messages are lost, null if the group is new to this client.
 * @property {number} missed        The number of missed messages that come next.
 * @property {string} position      The place up to which the client has everything now.
 *
 * @typedef {object} Events
 * @property {StateChange} state    The state has changed.
 * @property {Message} message      A message has arrived.
 * @property {Resumed} resumed      The consumer has joined a group.
 * @property {Error} error          A frame cannot be decoded, the store fails, or `protocols` has thrown an error.
 *
 * @typedef {object} Options  Times are in milliseconds.
 * @property {boolean} [json]       Frames are JSON, in both directions.
 * @property {boolean} [resume]     Offer the sub-protocol for resuming.
 * @property {string[] | (() => string[])} [protocols] Further sub-protocols to offer. A function is called at each attempt.
 * @property {number} [retryBase]   The longest wait before the first new attempt. Waits are random, and the limit doubles each time.
 * @property {number} [retryCap]    The longest wait before any attempt.
 * @property {number} [openTimeout] The time that a connection may take to open.
 * @property {number} [heartbeatInterval]  Ping the server after this time without a frame.
 * @property {number} [heartbeatTimeout]   Reconnect if the server does not answer a ping within this time.
 * @property {number} [bufferSize]  The number of frames that may wait for a connection.
 * @property {"drop_oldest" | "drop_newest"} [overflow]  The frame to drop if the buffer is full.
 * @property {Record<string, string>} [places]  The `places` of another socket, from which this one continues.
 * @property {Pick<Storage, "getItem" | "setItem">} [store]  Keeps the places over a reload of the page, like sessionStorage.
 * @property {string} [storeKey]    The key in the store. The default contains the URL.
 */

// After a close with one of these codes, another connection would end in the same way.
const FINAL_CODES = new Set([1000, 1002, 1003, 1007, 1008, 1009, 1010]);

/** Returns a socket that connects at once and reconnects. @param {string | URL} url @param {Options} [options] */
export function connect(url, options) {
  return new ResumingSocket(url, options);
}

/**
 * A WebSocket client that connects at once and reconnects after every loss, until `close()` is
 * called or the server closes with a code that forbids it.
 *
 * Frames that are sent without a connection wait for the next one. If a connection breaks shortly
 * after a send, the frame may be lost, and the client does not repeat it. If a message must
 * arrive, let your application acknowledge it.
 */
export class ResumingSocket {
  /** The address of the server. A change takes effect at the next attempt. @type {URL} */
  url;

  /** The current state. @type {SocketState} */
  state = "closed";

  /** True while the server supports resuming on this connection. */
  resumable = false;

  /** The number of frames that a full buffer or `close()` has dropped. */
  dropped = 0;

  #settings;
  #places;

  /** @type {{[E in keyof Events]: Set<(detail: Events[E]) => void>}} */
  #handlers = { state: new Set(), message: new Set(), resumed: new Set(), error: new Set() };

  /** The current connection. Abandoned ones still fire events, which are ignored. @type {WebSocket | null} */
  #socket = null;

  /** Frames that wait for a connection. @type {(string | Uint8Array<ArrayBuffer>)[]} */
  #buffer = [];

  /** Ends a wait, or an attempt that takes too long. @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /** The next check of the heartbeat. @type {ReturnType<typeof setTimeout> | undefined} */
  #beat;

  // Attempts since the last connection that was stable.
  #failures = 0;
  // By performance.now(): the last opening, the last frame, and the earliest next attempt that
  // the server allows.
  #openedAt = 0;
  #heardAt = 0;
  #notBefore = 0;

  // A browser fails the connection if the server chooses none of the offered sub-protocols.
  // Therefore, until a server has chosen the sub-protocol once, every other attempt offers none.
  #speaks = false;
  #offered = false;

  /** Removes the event listeners on the page. */
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

  /** The place in each group up to which everything was received. Another socket continues from there. */
  get places() {
    return this.#places.all();
  }

  /** The number of frames that wait for a connection. */
  get buffered() {
    return this.#buffer.length;
  }

  /**
   * Call a handler for each event from now on. Call the returned function to remove the handler.
   * The error of a handler is reported and affects neither the socket nor other handlers.
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
   * Returns true if the frame was written to a connection or waits for one, and false if it was dropped.
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

  /** Connect again after "closed", or end a wait. Respects the wait that the server asked for. */
  connect() {
    if (this.state === "closed") {
      this.#watchPage();
      this.#open();
    } else if (this.state === "waiting") {
      this.#failures = 0;
      this.#schedule(this.#notBefore - performance.now());
    }
  }

  /** Close with 1000 and do not reconnect. Frames that wait for a connection are dropped. */
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
    this.#timer = setTimeout(() => this.#abandon("the connection did not open in time"), openTimeout);
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
    // The next attempt offers the sub-protocol again, even if this one did not.
    this.#offered = false;
    this.#listen();
    // Before the handlers of "state", because they may send more frames.
    for (const frame of this.#buffer.splice(0)) this.#transmit(frame);
    this.#enter({ state: "open" });
  }

  /** @param {number} code @param {string} reason */
  #lost(code, reason) {
    if (FINAL_CODES.has(code) || (code >= 4000 && code <= 4999)) return this.#end(code, reason);
    const lasted = this.state === "open" ? performance.now() - this.#openedAt : 0;
    if (lasted > this.#longestPause()) this.#failures = 0;
    // Random from 0, so that thousands of clients of one server do not return at once.
    const early = Math.max(0, this.#notBefore - performance.now());
    const pause = Math.min(MAX_TIMEOUT_MS, early + Math.random() * this.#longestPause());
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
    this.#timer = setTimeout(() => this.#open(), Math.min(MAX_TIMEOUT_MS, Math.max(0, pause)));
  }

  /** Treat a connection as lost that would report it only minutes later. @param {string} reason */
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

  /** Reconnect when the network returns, and when the user looks at the page. */
  #watchPage() {
    this.#page = new AbortController();
    const { signal } = this.#page;
    const wake = () => (this.state === "open" ? this.#probe() : this.connect());
    globalThis.addEventListener?.("online", wake, { signal });
    globalThis.document?.addEventListener("visibilitychange", () => document.hidden || wake(), { signal });
  }

  // -- heartbeat -------------------------------------------------------------

  /** Wait for an interval without a frame. One timer per interval is enough for all frames. */
  #listen() {
    clearTimeout(this.#beat);
    const left = this.#settings.heartbeatInterval - (performance.now() - this.#heardAt);
    if (left > 0) this.#beat = setTimeout(() => this.#listen(), left);
    else this.#probe();
  }

  /** Ping the server. Without the sub-protocol, there is no ping. */
  #probe() {
    if (!this.resumable) return;
    clearTimeout(this.#beat);
    const asked = performance.now();
    this.#socket?.send(JSON.stringify({ ping: Math.round(asked) }));
    this.#beat = setTimeout(() => {
      if (this.#heardAt >= asked) this.#listen();
      else this.#abandon("the server did not answer a ping");
    }, this.#settings.heartbeatTimeout);
  }

  // -- frames ----------------------------------------------------------------

  /** @param {string | Uint8Array<ArrayBuffer>} frame */
  #transmit(frame) {
    const text = typeof frame === "string" && this.resumable;
    this.#socket?.send(text ? JSON.stringify({ t: frame }) : frame);
  }

  /** Keep a frame for the next connection. @param {string | Uint8Array<ArrayBuffer>} frame */
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

  /** Handle a frame of the sub-protocol, and ignore unknown keys. @param {any} data */
  #understand(data) {
    const frame = envelope(data);
    if ("ping" in frame) this.#socket?.send(JSON.stringify({ pong: frame.ping }));
    // Every frame shows that the server is alive. This one also ends the wait for an answer.
    if ("pong" in frame) this.#listen();
    if (frame.retry > 0) this.#notBefore = performance.now() + frame.retry * 1000;
    for (const [group, joined] of Object.entries(frame.resume ?? {})) this.#joined(group, joined);
    if ("t" in frame || "j" in frame || "b" in frame) this.#message(frame);
    for (const [group, position] of Object.entries(frame.at ?? {})) this.#places.set(group, position);
  }

  /** @param {string} group @param {any} joined */
  #joined(group, { recovered, missed = 0, position }) {
    // The server does not know places that were not presented, because there were too many.
    const outcome = recovered ?? (this.#places.has(group) ? false : null);
    this.#places.set(group, position);
    this.#emit("resumed", { group, recovered: outcome, missed, position });
  }

  /** @param {any} frame */
  #message(frame) {
    // The place first: a frame that cannot be decoded would not be decodable after a reconnect.
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

/** Report an error as uncaught, or log it on a platform without `reportError`. @param {unknown} error */
function report(error) {
  if (typeof reportError === "function") reportError(error);
  else console.error(error);
}
