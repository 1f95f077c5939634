import assert from "node:assert/strict";
import { test } from "node:test";

import { SUBPROTOCOL } from "../fast-channels.js";
import { hasMessages, isIn, listen, scripted, texts } from "./support.js";

const joined = (position, more = {}) => ["send", { resume: { lobby: { position, missed: 0, ...more } } }];
const frame = (t, offset, k = 0, more = {}) => ["send", { t, p: ["lobby", `e-${offset}`, k], ...more }];

test("a message says where it stands in its group", async (t) => {
  const { url } = scripted({ steps: [joined("e-3"), frame("four", 4), ["send", { t: "hello" }]] });
  const heard = await listen(t, url).until(hasMessages(2));
  assert.deepEqual(heard.message, [
    { data: "four", group: "lobby", position: "e-4", replayed: false },
    { data: "hello", group: null, position: null, replayed: false },
  ]);
  assert.deepEqual(heard.resumed, [{ group: "lobby", recovered: null, missed: 0, position: "e-3" }]);
  assert.deepEqual(heard.socket.places, { lobby: "e-4+1" });
});

test("a client that reconnects presents its places, and learns whether they were recovered", async (t) => {
  const { url, visits } = scripted(
    { steps: [joined("e-3"), frame("4.0", 4), frame("4.1", 4, 1), ["cut"]] },
    { steps: [joined("e-4+2", { recovered: true, missed: 1 }), frame("five", 5, 0, { replay: true })] },
  );
  const heard = await listen(t, url).until(hasMessages(3));
  const [first, second] = await visits();
  assert.deepEqual([first.offered, first.resume], [[SUBPROTOCOL], null]);
  assert.deepEqual(second.resume, { lobby: "e-4+2" });
  assert.deepEqual(heard.resumed[1], { group: "lobby", recovered: true, missed: 1, position: "e-4+2" });
  assert.deepEqual(heard.message.map(({ data, replayed }) => [data, replayed]), [
    ["4.0", false],
    ["4.1", false],
    ["five", true],
  ]);
});

test("a group without messages is resumed from where it was joined, one that is complete from there", async (t) => {
  const { url, visits } = scripted(
    { steps: [joined("e-3"), ["send", { resume: { other: { position: "f-7" } } }], ["send", { at: { other: "f-9" } }], ["cut"]] },
    { steps: [["send", { t: "here" }]] },
  );
  await listen(t, url).until(hasMessages(1));
  assert.deepEqual((await visits())[1].resume, { lobby: "e-3", other: "f-9" });
});

test("a group that cannot be recovered is reported, and continues from its new place", async (t) => {
  const { url, visits } = scripted(
    { steps: [joined("e-3"), ["cut"]] },
    { steps: [joined("f-1", { recovered: false }), ["cut"]] },
    { steps: [["send", { t: "here" }]] },
  );
  const heard = await listen(t, url).until(hasMessages(1));
  assert.deepEqual(heard.resumed.map(({ recovered }) => recovered), [null, false]);
  assert.deepEqual((await visits())[2].resume, { lobby: "f-1" });
});

test("a store keeps places, and other values in it are ignored", async (t) => {
  const kept = new Map();
  const store = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value) };
  const before = scripted({ steps: [joined("e-3"), frame("four", 4)] });
  const heard = await listen(t, before.url, { store, storeKey: "places" }).until(hasMessages(1));
  heard.socket.close();
  kept.set("places", JSON.stringify({ ...JSON.parse(kept.get("places")), other: "nonsense", third: 5 }));

  const after = scripted({ steps: [["send", { t: "here" }]] });
  await listen(t, after.url, { store, storeKey: "places" }).until(hasMessages(1));
  assert.deepEqual((await after.visits())[0].resume, { lobby: "e-4+1" });
});

test("a store that fails is reported once, and the socket continues", async (t) => {
  const fail = () => {
    throw new Error("the store is full");
  };
  const { url } = scripted({ steps: [joined("e-3"), frame("four", 4), frame("five", 5)] });
  const heard = await listen(t, url, { store: { getItem: () => null, setItem: fail } }).until(hasMessages(2));
  assert.deepEqual(heard.error.map(({ message }) => message), ["the store is full"]);
  assert.deepEqual(heard.socket.places, { lobby: "e-5+1" });
});

test("of too many places, the latest are presented, and the others are not recovered", async (t) => {
  const names = Array.from({ length: 500 }, (_, number) => `group-${number}`);
  const places = Object.fromEntries(names.map((name) => [name, "0123456789abcdef-1-4294967295"]));
  const { url, visits } = scripted({
    steps: [["send", { resume: { "group-0": { position: "e-1" }, "group-499": { position: "e-1", recovered: true } } }]],
  });
  const heard = await listen(t, url, { places }).until(({ resumed }) => resumed.length === 2);
  const presented = Object.keys((await visits())[0].resume);
  assert.deepEqual([presented[0], presented.includes("group-0"), presented.length > 50], ["group-499", false, true]);
  assert.deepEqual(heard.resumed.map(({ recovered }) => recovered), [false, true]);
});

test("text, JSON and bytes of a server keep their kind", async (t) => {
  const sent = [["send", { j: { a: [1] } }], ["send", { t: '"text"' }], ["send", { b: "AP+A" }]];
  const json = await listen(t, scripted({ steps: sent }).url, { json: true }).until(hasMessages(3));
  assert.deepEqual(texts(json), [{ a: [1] }, "text", new Uint8Array([0, 255, 128])]);
  const plain = await listen(t, scripted({ steps: sent }).url).until(hasMessages(3));
  assert.deepEqual(texts(plain), ['{"a":[1]}', '"text"', new Uint8Array([0, 255, 128])]);
});

test("a frame that is not JSON is an error, counts, and stops nothing", async (t) => {
  const { url } = scripted({ steps: [frame("no JSON", 4), frame('"yes"', 5)] });
  const heard = await listen(t, url, { json: true }).until(hasMessages(1));
  assert.equal(heard.error[0].name, "SyntaxError");
  assert.deepEqual([texts(heard), heard.socket.places], [["yes"], { lobby: "e-5+1" }]);
});

test("a client ignores frames and keys that it does not know", async (t) => {
  const unknown = ["[]", "null", "no JSON", '{"new": 1}', '{"retry": "soon"}'].map((text) => ["text", text]);
  const { url } = scripted({ steps: [...unknown, ["bytes", "AAA="], ["send", { t: "here", new: 1 }]] });
  const heard = await listen(t, url).until(hasMessages(1));
  assert.deepEqual([texts(heard), heard.error], [["here"], []]);
});

test("frames are plain with a server without the sub-protocol", async (t) => {
  const steps = [["receive", 2], ["text", '{"t": "as it is"}'], ["bytes", "AAE="]];
  // The first connection fails as in a browser, because the server chose no sub-protocol.
  const { url, visits } = scripted({ plain: true }, { plain: true, steps });
  const heard = listen(t, url, { heartbeatInterval: 5 });
  await heard.until(isIn("open"));
  heard.socket.send("text");
  heard.socket.send(new Uint8Array([1, 2]));
  await heard.until(hasMessages(2));
  assert.equal(heard.socket.resumable, false);
  assert.deepEqual(texts(heard), ['{"t": "as it is"}', new Uint8Array([0, 1])]);
  assert.deepEqual((await visits())[1].frames, ["text", [1, 2]]);
});

test("every other attempt offers nothing, until a server has chosen the sub-protocol", async (t) => {
  const refused = { refuse: 503 };
  const { url, visits } = scripted(refused, refused, { steps: [["cut"]] }, refused, refused, { steps: [["send", { t: "here" }]] });
  await listen(t, url).until(hasMessages(1));
  const offers = (await visits()).map(({ offered }) => offered.length);
  assert.deepEqual(offers, [1, 0, 1, 1, 1, 1]);
});

test("a function of protocols is called at each attempt, so that a token may be new", async (t) => {
  const { url, visits } = scripted({ steps: [["cut"]] }, { steps: [["send", { t: "here" }]] });
  let number = 0;
  await listen(t, url, { protocols: () => ["bearer", `token-${(number += 1)}`] }).until(hasMessages(1));
  assert.deepEqual(
    (await visits()).map(({ offered }) => offered.slice(1)),
    [["bearer", "token-1"], ["bearer", "token-2"]],
  );
});

test("a function of protocols that throws is an error, and the attempt offers none of them", async (t) => {
  const { url, visits } = scripted({ steps: [["cut"]] }, { steps: [["send", { t: "here" }]] });
  const protocols = t.mock.fn(() => ["bearer"]);
  protocols.mock.mockImplementationOnce(() => { throw new Error("no token yet"); }, 1);
  const heard = await listen(t, url, { protocols }).until(hasMessages(1));
  assert.deepEqual(heard.error.map(({ message }) => message), ["no token yet"]);
  assert.deepEqual((await visits()).map(({ offered }) => offered.slice(1)), [["bearer"], []]);
});
