/** Uvicorn with a resumable consumer: see tests/clients/application.py. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { hasMessages, isIn, listen } from "./support.js";

const server = process.env.REAL_SERVER;

const say = (text) => fetch(`http://${server}/say?text=${encodeURIComponent(text)}`);

test("messages sent while a client was away arrive once, in order, marked as replayed", async (t) => {
  // The client reconnects when the test tells it to.
  const options = { json: true, retryBase: 3_600_000, retryCap: 3_600_000 };
  const heard = listen(t, `ws://${server}/ws`, options);
  await heard.until(({ resumed }) => resumed.length === 1);
  heard.socket.send("before");
  await heard.until(hasMessages(1));
  await fetch(`http://${server}/cut`);
  await heard.until(isIn("waiting"));
  for (const text of ["missed 1", "missed 2"]) await say(text);
  heard.socket.connect();
  await heard.until(hasMessages(3));
  heard.socket.send("after");
  await heard.until(hasMessages(4));
  assert.deepEqual(heard.resumed.map(({ recovered, missed }) => [recovered, missed]), [[null, 0], [true, 2]]);
  assert.deepEqual(heard.message.map(({ data, replayed }) => [data, replayed]), [
    ["before", false], ["missed 1", true], ["missed 2", true], ["after", false],
  ]);
});

test("a client that closed and connects again also receives the missed messages", async (t) => {
  const heard = listen(t, `ws://${server}/ws`, { json: true });
  await heard.until(({ resumed }) => resumed.length === 1);
  heard.socket.close();
  await say("missed");
  heard.socket.connect();
  await heard.until(hasMessages(1));
  assert.deepEqual(heard.message.map(({ data, replayed }) => [data, replayed]), [["missed", true]]);
});
