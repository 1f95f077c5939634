/** The hook and the component of docs/recipes/clients.md, rendered by React without a browser. */

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { test } from "node:test";

const { RECIPE, SERVER } = process.env;
const require = createRequire(`${RECIPE}/package.json`);
const { createElement, StrictMode, act } = require("react");
const { create } = require("react-test-renderer");
const { Chat } = await import(pathToFileURL(`${RECIPE}/Chat.js`));

globalThis.IS_REACT_ACT_ENVIRONMENT = true;

/** Let React work until something holds. */
async function until(holds) {
  while (!holds()) await act(() => new Promise((resolve) => setTimeout(resolve, 5)));
}

/** Render a Chat; returns what it shows, and how to say something in it. */
async function open(t, { strict = false } = {}) {
  const chat = createElement(Chat, { url: `${SERVER}/ws/chat` });
  let rendered;
  await act(() => void (rendered = create(strict ? createElement(StrictMode, null, chat) : chat)));
  t.after(() => act(() => rendered.unmount()));
  const { root } = rendered;
  const shown = {
    root,
    rendered,
    state: () => root.findByType("p").children.join(""),
    lines: () => root.findAllByType("li").map((line) => line.children.join("")),
    async say(text) {
      await act(() => root.findByType("input").props.onChange({ target: { value: text } }));
      await act(() => root.findByType("form").props.onSubmit({ preventDefault() {} }));
      assert.equal(root.findByType("input").props.value, "");
    },
  };
  await until(() => shown.state() === "open");
  return shown;
}

test("what one says all see, each line once", async (t) => {
  const [one, two] = [await open(t), await open(t, { strict: true })];
  await one.say("hello");
  await until(() => two.lines().length === 1);
  await two.say("good morning");
  await until(() => one.lines().length === 2 && two.lines().length === 2);
  assert.deepEqual(one.lines(), ["hello", "good morning"]);
  assert.deepEqual(two.lines(), one.lines());
});

test("what was said while the connection was gone comes afterwards, in order", async (t) => {
  const [one, two] = [await open(t), await open(t)];
  await one.say("before");
  await until(() => two.lines().length === 1);
  await fetch(`${SERVER.replace("ws", "http")}/cut-and-say?text=meanwhile`, { method: "POST" });
  await until(() => one.lines().length === 2 && two.lines().length === 2);
  await until(() => one.state() === "open");
  await one.say("after");
  await until(() => two.lines().length === 3);
  assert.deepEqual(two.lines(), ["before", "meanwhile", "after"]);
});

test("a component that is unmounted closes its socket", async (t) => {
  const chat = await open(t);
  const clients = async () => (await fetch(`${SERVER.replace("ws", "http")}/clients`)).json();
  assert.equal(await clients(), 1);
  await act(() => chat.rendered.unmount());
  while (await clients()) await new Promise((resolve) => setTimeout(resolve, 5));
});

test("lines that the history no longer has are told", async (t) => {
  const chat = await open(t);
  await chat.say("before");
  await until(() => chat.lines().length === 1);
  await fetch(`${SERVER.replace("ws", "http")}/cut-and-say?text=x&times=1001`, { method: "POST" });
  await until(() => chat.state() === "Some lines are lost: please reload.");
});
