/** How this page connects: with the library's client, which reconnects by itself. */

import { connect } from "/static/fast-channels/fast-channels.js";
import { NAME } from "./name.js";

/**
 * With `json`, values are sent and received instead of text. With `resume`, a resumable consumer
 * sends the messages that were missed while the connection was lost. With `history`, the first
 * connection begins with the latest lines. `name` is the author's name.
 */
export function open(path, { json = false, resume = false, history = false, name = NAME } = {}) {
  const url = new URL(path, location.href);
  url.searchParams.set("name", name);
  if (history) url.searchParams.set("history", "1");
  // A line that cannot be sent now stays in its field, so no line waits in the socket.
  const socket = connect(url, { json, resume, bufferSize: 0, retryCap: 10_000 });
  // A connection after the first one continues where that one ended.
  socket.on("state", ({ state }) => state === "open" && socket.url.searchParams.delete("history"));
  return socket;
}
