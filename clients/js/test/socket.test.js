import assert from "node:assert/strict";
import { test } from "node:test";

import { connect } from "../fast-channels.js";
import { hasMessages, isIn, listen, scripted, texts } from "./support.js";

test("states follow the connection, with its end and the pause before the next", async (t) => {
  const { url } = scripted({ steps: [["close", 1012, "restart"]] }, { steps: [["close", 4001, "no"]] });
  const heard = await listen(t, url).until(isIn("closed"));
  const { pause } = heard.state[1];
  assert.ok(pause >= 0 && pause <= 5, `${pause}`);
  assert.deepEqual(heard.state, [
    { state: "open" },
    { state: "waiting", code: 1012, reason: "restart", pause },
    { state: "connecting" },
    { state: "open" },
    { state: "closed", code: 4001, reason: "no" },
  ]);
});

for (const code of [1000, 1002, 1003, 1007, 1008, 1009, 1010, 4000, 4999]) {
  test(`a close with ${code} is final`, async (t) => {
    const { url } = scripted({ steps: [["close", code, ""]] });
    const heard = await listen(t, url).until(({ state }) => state.at(-1)?.code === code);
    assert.equal(heard.socket.state, "closed");
  });
}

for (const code of [1001, 1011, 1012, 1013, 3000]) {
  test(`a client reconnects after a close with ${code}`, async (t) => {
    const { url } = scripted({ steps: [["close", code, ""]] }, { steps: [["send", { t: "here" }]] });
    assert.deepEqual(texts(await listen(t, url).until(hasMessages(1))), ["here"]);
  });
}

test("pauses are random, and their limit doubles each time, up to the cap", async (t) => {
  t.mock.method(Math, "random", () => 0.999);
  const { url } = scripted(...Array(4).fill({ refuse: 503 }));
  const heard = await listen(t, url, { retryBase: 4, retryCap: 10 }).until(isIn("open"));
  const pauses = heard.state.filter(({ state }) => state === "waiting").map(({ pause }) => Math.round(pause));
  assert.deepEqual(pauses, [4, 8, 10, 10]);
});

test("a connection that lasted starts the pauses anew", async (t) => {
  t.mock.method(Math, "random", () => 0.999);
  const { url } = scripted({ refuse: 503 }, { refuse: 503 }, { steps: [["receive", 1], ["cut"]] });
  const heard = listen(t, url, { retryBase: 2 });
  await heard.until(isIn("open"));
  // Longer than the third pause, which would have been 8 ms.
  setTimeout(() => heard.socket.send("done"), 50);
  await heard.until(({ state }) => state.filter(({ state }) => state === "waiting").length === 3);
  assert.equal(Math.round(heard.state.at(-1).pause), 2);
});

test("a client waits as long as the server says, even if connect() is called", async (t) => {
  const { url } = scripted({ steps: [["send", { retry: 2 }], ["close", 1012, ""]] });
  const heard = await listen(t, url).until(isIn("waiting"));
  const lost = performance.now();
  const { pause } = heard.state.at(-1);
  assert.ok(pause > 100 && pause <= 2005, `${pause}`);
  heard.socket.connect();
  await heard.until(isIn("open"));
  assert.ok(performance.now() - lost > 100);
});

test("connect() ends a wait, and opens a socket that was closed", async (t) => {
  const { url } = scripted({ steps: [["cut"]] }, { steps: [["close", 4000, ""]] }, { steps: [["send", { t: "here" }]] });
  const heard = listen(t, url, { retryBase: 3_600_000, retryCap: 3_600_000 });
  await heard.until(isIn("waiting"));
  heard.socket.connect();
  await heard.until(isIn("closed"));
  heard.socket.connect();
  await heard.until(hasMessages(1));
});

test("close() closes with 1000, once, and also ends a wait", async (t) => {
  const { url, visits } = scripted({ steps: [["receive", 1], ["cut"]] });
  const heard = listen(t, url, { retryBase: 3_600_000, retryCap: 3_600_000 });
  await heard.until(isIn("open"));
  heard.socket.send("cut me off");
  await heard.until(isIn("waiting"));
  heard.socket.send("too late");
  heard.socket.close("bye");
  heard.socket.close("bye");
  assert.deepEqual(heard.state.at(-1), { state: "closed", code: 1000, reason: "bye" });
  assert.deepEqual([heard.socket.dropped, heard.socket.send("never")], [1, false]);
  assert.equal((await visits()).length, 1);
});

test("frames sent without a connection wait for the next, in order", async (t) => {
  const steps = [["receive", 4], ["send", { t: "thanks" }]];
  const { url, visits } = scripted({ refuse: 503 }, { refuse: 503 }, { steps });
  const heard = listen(t, url);
  const bytes = new Uint8Array([1, 2, 3]);
  assert.deepEqual([heard.socket.send("one"), heard.socket.send(bytes)], [true, true]);
  bytes.fill(9);
  assert.equal(heard.socket.buffered, 2);
  heard.socket.on("state", ({ state }) => state === "open" && heard.socket.send("three"));
  await heard.until(isIn("open"));
  heard.socket.send(new Uint8Array([0, 4]).subarray(1));
  await heard.until(hasMessages(1));
  assert.deepEqual((await visits())[2].frames, [{ t: "one" }, [1, 2, 3], { t: "three" }, [4]]);
  assert.deepEqual([heard.socket.buffered, heard.socket.dropped], [0, 0]);
});

for (const [overflow, kept, results] of [
  ["drop_newest", ["1", "2"], [true, true, false]],
  ["drop_oldest", ["2", "3"], [true, true, true]],
]) {
  test(`a full buffer drops the frame that ${overflow} names, and counts it`, async (t) => {
    const { url, visits } = scripted({ refuse: 503 }, { refuse: 503 }, { steps: [["receive", 2], ["send", { t: "thanks" }]] });
    const heard = listen(t, url, { bufferSize: 2, overflow });
    assert.deepEqual(["1", "2", "3"].map((text) => heard.socket.send(text)), results);
    await heard.until(hasMessages(1));
    assert.equal(heard.socket.dropped, 1);
    assert.deepEqual((await visits())[2].frames, kept.map((t) => ({ t })));
  });
}

test("values are sent as JSON, and a value without JSON is refused at once", async (t) => {
  const { url, visits } = scripted({ steps: [["receive", 1], ["send", { t: "1" }]] });
  const heard = listen(t, url, { json: true });
  heard.socket.send({ a: null });
  await heard.until(hasMessages(1));
  assert.deepEqual((await visits())[0].frames, [{ t: '{"a":null}' }]);
  assert.throws(() => heard.socket.send(undefined), { name: "TypeError", message: /undefined cannot be sent: JSON has no/ });
  const plain = listen(t, scripted({}).url);
  assert.throws(() => plain.socket.send(5), { name: "TypeError", message: /5 cannot be sent: send text or bytes/ });
});

test("a silent server is pinged, and a connection with an answer is kept", async (t) => {
  const { url, visits } = scripted({ steps: [["receive", 3], ["send", { t: "here" }]] });
  const heard = await listen(t, url, { heartbeatInterval: 10, heartbeatTimeout: 60_000 }).until(hasMessages(1));
  const [{ frames }] = await visits();
  assert.ok(frames.every((frame) => typeof frame.ping === "number"), JSON.stringify(frames));
  assert.deepEqual(heard.state.map(({ state }) => state).filter((state) => state === "waiting"), []);
});

test("a server that does not answer a ping is left for another connection", async (t) => {
  // Many, because a busy machine may miss the heartbeat of the second one as well.
  const next = Array(50).fill({ steps: [["send", { t: "here" }]] });
  const { url, visits } = scripted({ deaf: true, steps: [["receive", 1]] }, ...next);
  const heard = await listen(t, url, { heartbeatInterval: 10, heartbeatTimeout: 20 }).until(hasMessages(1));
  const lost = heard.state.find(({ state }) => state === "waiting");
  assert.deepEqual([lost.code, lost.reason], [1006, "the server did not answer a ping"]);
  let code = null;
  while (code === null) [{ code }] = await visits();
  assert.equal(code, 3008);
});

test("a ping is answered", async (t) => {
  const { url, visits } = scripted({ steps: [["send", { ping: 7 }], ["receive", 1], ["send", { t: "thanks" }]] });
  await listen(t, url).until(hasMessages(1));
  assert.deepEqual((await visits())[0].frames, [{ pong: 7 }]);
});

test("a page that is online again, or looked at, reconnects at once", async (t) => {
  const page = Object.assign(new EventTarget(), { hidden: false });
  const network = new EventTarget();
  Object.assign(globalThis, { document: page, addEventListener: network.addEventListener.bind(network) });
  t.after(() => {
    delete globalThis.document;
    delete globalThis.addEventListener;
  });
  const { url, visits } = scripted(
    { steps: [["cut"]] },
    { steps: [["send", { t: "online" }], ["receive", 1], ["cut"]] },
    { steps: [["send", { t: "visible" }]] },
  );
  const heard = listen(t, url, { retryBase: 3_600_000, retryCap: 3_600_000 });
  await heard.until(isIn("waiting"));
  network.dispatchEvent(new Event("online"));
  await heard.until(hasMessages(1));
  // The client pings an open connection.
  network.dispatchEvent(new Event("online"));
  await heard.until(isIn("waiting"));
  assert.equal(typeof (await visits())[1].frames[0].ping, "number");
  page.dispatchEvent(new Event("visibilitychange"));
  await heard.until(hasMessages(2));
  heard.socket.close();
  network.dispatchEvent(new Event("online"));
  assert.equal(heard.socket.state, "closed");
});

test("a handler that throws is reported, and other handlers run", async (t) => {
  const reported = t.mock.method(console, "error", () => {});
  const { url } = scripted({ steps: [["send", { t: "one" }], ["send", { t: "two" }]] });
  const socket = connect(url);
  t.after(() => socket.close());
  const seen = [];
  const both = new Promise((resolve) => {
    socket.on("message", () => {
      throw new Error("a mistake of the page");
    });
    socket.on("message", ({ data }) => seen.push(data) === 2 && resolve());
  });
  await both;
  assert.deepEqual(seen, ["one", "two"]);
  assert.deepEqual(reported.mock.calls.map(({ arguments: [error] }) => error.message), Array(2).fill("a mistake of the page"));
});

test("a handler that was removed is not called", async (t) => {
  const { url } = scripted({ steps: [["send", { t: "one" }], ["receive", 1], ["send", { t: "two" }]] });
  const heard = listen(t, url);
  const seen = [];
  const off = heard.socket.on("message", ({ data }) => seen.push(data));
  await heard.until(hasMessages(1));
  off();
  heard.socket.send("go on");
  await heard.until(hasMessages(2));
  assert.deepEqual(seen, ["one"]);
});

for (const [url, options, name, message] of [
  ["mailto:me", {}, "TypeError", '"mailto:me" is not an address of a WebSocket; give one like "wss://example.org/ws"'],
  ["/ws", {}, "TypeError", '"/ws" is not an address of a WebSocket; give one like "wss://example.org/ws"'],
  ["ws://x", { retry: 1 }, "TypeError", /^there is no option retry; there are json, /],
  ["ws://x", { toString: 1 }, "TypeError", /^there is no option toString; there are json, /],
  ["ws://x", { retryCap: "5 s" }, "RangeError", 'retryCap is "5 s"; give milliseconds, more than 0 and at most 2147483647'],
  ["ws://x", { heartbeatInterval: Infinity }, "RangeError", /^heartbeatInterval is Infinity; give/],
  ["ws://x", { bufferSize: -1 }, "RangeError", "bufferSize is -1; give a number of frames, 0 or more"],
  ["ws://x", { overflow: "drop" }, "TypeError", 'overflow is "drop"; give one of "drop_oldest", "drop_newest"'],
  ["ws://x", { places: { lobby: "4" } }, "TypeError", 'places has "4" for the group lobby; pass the places of a socket unchanged'],
]) {
  test(`${url} with ${JSON.stringify(options)} is refused with a sentence`, () => {
    assert.throws(() => connect(url, options), { name, message });
  });
}

test("there is a sentence for an event that does not exist", (t) => {
  const { socket } = listen(t, scripted({}).url);
  assert.throws(() => socket.on("close", () => {}), { message: 'there is no event "close"; there are state, message, resumed, error' });
});
