/** Shared by the tests: the address of a scripted server, and sockets that record their events. */

import { randomUUID } from "node:crypto";

import { connect } from "../fast-channels.js";

// tests/clients/scripted.py, which `make test` starts. Its docstrings describe scripts.
const server = process.env.SCRIPTED_SERVER;

/** Options that make a client reconnect within milliseconds. */
export const quick = { retryBase: 5, retryCap: 20 };

/** Returns the address of a server with these scripted connections, and a function for its log. */
export function scripted(...connections) {
  if (!server) throw new Error("SCRIPTED_SERVER is not set; run these tests with: pytest tests/clients");
  const run = randomUUID();
  const script = encodeURIComponent(JSON.stringify(connections));
  return {
    url: `ws://${server}/?run=${run}&script=${script}`,
    visits: async () => (await fetch(`http://${server}/log/${run}`)).json(),
  };
}

/** Returns a socket that records its events and closes at the end of the test. */
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

  /** Waits until the recorded events satisfy a condition. */
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
