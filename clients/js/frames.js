/** The contents of WebSocket frames: envelopes of the protocol, and application data. */

import { show } from "./options.js";

/** Returns the keys of a frame of the protocol, or none for any other frame. @param {unknown} data @returns {Record<string, any>} */
export function envelope(data) {
  try {
    const frame = JSON.parse(/** @type {string} */ (data));
    return frame !== null && typeof frame === "object" ? frame : {};
  } catch {
    return {};
  }
}

/** Returns the application data in an envelope. @param {any} frame @param {boolean} json */
export function decoded(frame, json) {
  if ("b" in frame) return Uint8Array.from(atob(frame.b), (character) => character.charCodeAt(0));
  if ("j" in frame) return json ? frame.j : JSON.stringify(frame.j);
  return json ? JSON.parse(frame.t) : frame.t;
}

/** Returns application data as a frame. @param {any} data @param {boolean} json @returns {string | Uint8Array<ArrayBuffer>} */
export function encoded(data, json) {
  // Copied, because the caller may change it before it is sent.
  if (data instanceof ArrayBuffer) return new Uint8Array(data).slice();
  if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice();
  const text = json ? JSON.stringify(data) : data;
  if (typeof text === "string") return text;
  const remedy = json ? "JSON has no such value" : "send text or bytes, or connect with { json: true }";
  throw new TypeError(`${show(data)} cannot be sent: ${remedy}`);
}
