/** How this page connects: with the library's client, which comes back by itself. */

import { connect } from "/static/fast-channels/fast-channels.js";

/**
 * `json` sends and receives values instead of text. `resume` is for a consumer that is
 * resumable: what is missed while the connection is lost arrives after it.
 */
export function open(path, { json = false, resume = false } = {}) {
  // A line that cannot be sent now stays in its field, so none has to wait in the socket.
  return connect(path, { json, resume, bufferSize: 0, retryCap: 10_000 });
}
