/** How this page connects: with the library's client, which reconnects by itself. */

import { connect } from "/static/fast-channels/fast-channels.js";
import { NAME } from "./name.js";

/**
 * With `json`, values are sent and received instead of text. With `resume`, a resumable consumer
 * sends the messages that were missed while the connection was lost. `name` is the author's name.
 */
export function open(path, { json = false, resume = false, name = NAME } = {}) {
  const url = new URL(path, location.href);
  url.searchParams.set("name", name);
  // A line that cannot be sent now stays in its field, so no line waits in the socket.
  return connect(url, { json, resume, bufferSize: 0, retryCap: 10_000 });
}
