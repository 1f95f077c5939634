/**
 * Two chats and one connection that can be dropped. When it is back, the reliable chat receives
 * the lines that it missed, and the plain chat does not.
 */

import { enableWhileOpen, kindOf, notConnected, onSubmit } from "../form.js";
import { Log } from "../log.js";
import { NAME } from "../name.js";
import { open } from "../socket.js";
import { showStatus } from "../status.js";

// A dropped connection comes back after this many seconds.
const AWAY_SECONDS = 15;

const DROPPED = "Dropped. Now write in a second tab, or let the robot write. Nothing reaches this tab.";

// The robot is another client, for visitors without a second tab.
const ROBOT_LINES = ["Hello, I am a robot.", "Who of you is disconnected?", "You read this later, or never."];
const ROBOT_PAUSE_MS = 500;

// Lines for a page that is new, or was away for longer than the history reaches back.
const LATEST_LINES = 20;

// As many as the history keeps.
const MAX_LINES = 200;

// Lines that arrive wait for the history this long at most.
const HISTORY_TIMEOUT_MS = 5000;

export function chatsPanel(panel) {
  const plain = plainChat(panel);
  const reliable = reliableChat(panel);
  const sockets = [plain.socket, reliable.socket];

  panel.querySelector("#chats-name").textContent = NAME;
  enableWhileOpen(panel.querySelector("#chats-send"), ...sockets);
  onSubmit(panel.querySelector("#chats-form"), panel.querySelector("#chats-text"), (text) => {
    // Not `||`: one chat must not wait for the other to fail.
    const sent = [
      plain.socket.send(text) || notConnected(plain.log),
      reliable.socket.send(text) || notConnected(reliable.log),
    ];
    return sent.includes(true);
  });
  dropButton(panel, plain.socket, reliable.socket);
  robotButton(panel);
}

function plainChat(panel) {
  const log = new Log(panel.querySelector("#chat-log"));
  const socket = open("/ws/chat");
  let lost = false;

  showStatus(panel.querySelector("#chat-status"), socket);
  socket.on("message", ({ data }) => {
    const kind = kindOf(data);
    if (kind) log.add(data, { kind });
    else log.addLine(data);
  });
  socket.on("state", ({ state }) => {
    if (state === "open" && lost) log.add("back: lines sent meanwhile are missing here", { kind: "event" });
    lost = state !== "open";
  });
  return { log, socket };
}

function reliableChat(panel) {
  const log = new Log(panel.querySelector("#reliable-log"));
  const socket = open("/ws/reliable", { resume: true });
  // When lines were sent that are replayed, by position. A frame is the text of a line alone.
  let times = new Map();
  // The lines of the history come before lines that arrive while it is fetched.
  let shown = Promise.resolve();
  const inOrder = (show) => {
    shown = shown.then(show);
  };

  showStatus(panel.querySelector("#reliable-status"), socket);
  socket.on("resumed", (resumed) => {
    inOrder(async () => {
      const complete = resumed.recovered && !resumed.missed;
      const lines = complete ? [] : await history(resumed.recovered ? MAX_LINES : LATEST_LINES);
      times = new Map(lines.map((line) => [line.position, line.sent_at]));
      showResumed(log, resumed, lines);
    });
  });
  socket.on("message", ({ data, position, replayed }) => {
    const kind = kindOf(data);
    inOrder(() => {
      if (kind) log.add(data, { kind });
      else if (replayed) showLine(log, { text: data, position, sent_at: times.get(position) }, "replayed");
      else showLine(log, { text: data, position });
    });
  });
  return { log, socket };
}

/** Says how much the page has missed; shows the latest lines if it does not receive them by itself. */
function showResumed(log, { recovered, missed }, lines) {
  if (recovered) {
    log.add(`back: ${counted(missed)} missed`, { kind: "event" });
  } else if (recovered === false) {
    const count = lines.length ? `here are the latest ${lines.length} lines` : "no line is kept";
    log.add(`too long away: ${count}`, { kind: "event" });
    for (const line of lines) showLine(log, line, "snapshot");
  } else if (lines.length) {
    log.add(`history: the latest ${counted(lines.length)}`, { kind: "event" });
    for (const line of lines) showLine(log, line);
  }
}

/** A line of the history may arrive a second time, or have been shown before. */
function showLine(log, { text, position, sent_at }, mark = "") {
  if (!log.has(position)) log.addLine(text, { position, mark, sentAt: sent_at ?? 0 });
}

/** Returns the latest lines with their positions and times; none if the server does not answer. */
async function history(limit) {
  try {
    const signal = AbortSignal.timeout(HISTORY_TIMEOUT_MS);
    const response = await fetch(`/reliable/lines?limit=${limit}`, { cache: "no-store", signal });
    return response.ok ? await response.json() : [];
  } catch {
    return [];
  }
}

function counted(lines) {
  if (lines === 0) return "no line";
  return lines === 1 ? "1 line" : `${lines} lines`;
}

function outcome({ recovered, missed }) {
  if (!recovered) return "Back, after more lines than the history keeps. The reliable chat shows the latest.";
  if (!missed) return "Back, but no line was sent meanwhile. Drop the connection again, and let the robot write.";
  const lost = missed === 1 ? "it" : "them";
  return `Back. The reliable chat received the ${counted(missed)} that it missed; the plain chat lost ${lost}.`;
}

/** Closes the sockets, and opens them after a while or when the button is pressed again. */
function dropButton(panel, plain, reliable) {
  const sockets = [plain, reliable];
  const button = panel.querySelector("#chats-drop");
  const hint = panel.querySelector("#chats-hint");
  const label = button.textContent;
  let left = 0;
  let timer = 0;
  let comingBack = false;

  const drop = () => {
    for (const socket of sockets) socket.close();
    left = AWAY_SECONDS;
    timer = setInterval(count, 1000);
    hint.textContent = DROPPED;
    draw();
  };
  const comeBack = () => {
    clearInterval(timer);
    left = 0;
    for (const socket of sockets) socket.connect();
    hint.textContent = "Reconnecting.";
    comingBack = true;
    draw();
  };
  reliable.on("resumed", (resumed) => {
    if (comingBack) hint.textContent = outcome(resumed);
    comingBack = false;
  });
  const count = () => {
    left -= 1;
    if (left) draw();
    else comeBack();
  };
  const draw = () => {
    panel.dataset.dropped = left ? "yes" : "no";
    button.textContent = left ? `Reconnect (in ${left} s)` : label;
  };
  button.addEventListener("click", () => (left ? comeBack() : drop()));
  button.disabled = false;
}

/** Writes a few lines over both chats, with connections of its own. */
function robotButton(panel) {
  const button = panel.querySelector("#chats-robot");
  button.addEventListener("click", async () => {
    button.disabled = true;
    const plain = open("/ws/chat", { name: "Robot" });
    const reliable = open("/ws/reliable", { name: "Robot" });
    await Promise.all([opened(plain), opened(reliable)]);
    for (const text of ROBOT_LINES) {
      plain.send(text);
      reliable.send(text);
      await new Promise((resolve) => setTimeout(resolve, ROBOT_PAUSE_MS));
    }
    plain.close();
    reliable.close();
    button.disabled = false;
  });
  button.disabled = false;
}

function opened(socket) {
  return new Promise((resolve) => socket.on("state", ({ state }) => state === "open" && resolve()));
}
