/** What the tests share: a server that does what it is told, and ears. */

import { randomUUID } from "node:crypto";

import { connect } from "../fast-channels.js";

// tests/clients/scripted.py; `make test` starts it, and says what a script may contain.
const server = process.env.SCRIPTED_SERVER;

/** Times for tests: whoever loses a connection is back in a moment. */
export const quick = { retryBase: 5, retryCap: 20 };

/** The address of a server that does this on one connection after the other, and what it saw. */
export function scripted(...connections) {
  if (!server) throw new Error("SCRIPTED_SERVER is not set; run these tests with: pytest tests/clients");
  const run = randomUUID();
  const script = encodeURIComponent(JSON.stringify(connections));
  return {
    url: `ws://${server}/?run=${run}&script=${script}`,
    visits: async () => (await fetch(`http://${server}/log/${run}`)).json(),
  };
}

/** A socket that writes down what it hears, and is closed when the test is over. */
export function listen(test, url, options = {}) {
  const socket = connect(url, { ...quick, ...options });
  const heard = { socket, state: [], message: [], resumed: [], error: [], until };
  const waiting = new Set();
  for (const event of ["state", "message", "resumed", "error"]) {
    socket.on(event, (detail) => {
      heard[event].push(detail);
      for (const look of waiting) look();
    });
  }
  test.after(() => socket.close());
  return heard;

  /** Wait until something holds of what was heard. */
  function until(holds) {
    return new Promise((resolve) => {
      const look = () => {
        if (!holds(heard)) return;
        waiting.delete(look);
        resolve(heard);
      };
      waiting.add(look);
      look();
    });
  }
}

export const isIn = (state) => ({ socket }) => socket.state === state;
export const hasMessages = (count) => ({ message }) => message.length >= count;
export const texts = ({ message }) => message.map(({ data }) => data);
