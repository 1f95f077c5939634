/** What is inside of a WebSocket's frames. */

import { show } from "./options.js";

/** @param {unknown} data @returns {Record<string, any>} */
export function envelope(data) {
  try {
    const frame = JSON.parse(/** @type {string} */ (data));
    return frame !== null && typeof frame === "object" ? frame : {};
  } catch {
    return {};
  }
}

/** @param {any} frame @param {boolean} json */
export function decoded(frame, json) {
  if ("b" in frame) return Uint8Array.from(atob(frame.b), (character) => character.charCodeAt(0));
  if ("j" in frame) return json ? frame.j : JSON.stringify(frame.j);
  return json ? JSON.parse(frame.t) : frame.t;
}

/** @param {any} data @param {boolean} json @returns {string | Uint8Array<ArrayBuffer>} */
export function encoded(data, json) {
  // Copies, for the caller may change it while it waits.
  if (data instanceof ArrayBuffer) return new Uint8Array(data).slice();
  if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice();
  const text = json ? JSON.stringify(data) : data;
  if (typeof text === "string") return text;
  const remedy = json ? "JSON has no such value" : "send text or bytes, or connect with { json: true }";
  throw new TypeError(`${show(data)} cannot be sent: ${remedy}`);
}
