/**
 * Two chats and one connection that can be dropped: the reliable one makes up for what was
 * said meanwhile, the plain one has missed it.
 */

import { kindOf, notConnected, onSubmit } from "../form.js";
import { Log } from "../log.js";
import { open } from "../socket.js";
import { showStatus } from "../status.js";

// Seconds after which a connection that was dropped comes back.
const AWAY = 15;

const DROPPED = "Dropped. Let others write now: in another tab, or with the script.";
const BACK = "Back. The reliable chat makes up for what was said; the plain chat has missed it.";

export function chatsPanel(panel) {
  const plain = plainChat(panel);
  const reliable = reliableChat(panel);

  onSubmit(panel.querySelector("#chats-form"), panel.querySelector("#chats-text"), (text) => {
    // Not `||`: one chat must not wait for the other to fail.
    const sent = [
      plain.socket.send(text) || notConnected(plain.log),
      reliable.socket.send({ text }) || notConnected(reliable.log),
    ];
    return sent.includes(true);
  });
  dropButton(panel, [plain.socket, reliable.socket]);
}

function plainChat(panel) {
  const log = new Log(panel.querySelector("#chat-log"));
  const socket = open("/ws/chat");
  let lost = false;

  showStatus(panel.querySelector("#chat-status"), socket);
  socket.on("message", ({ data }) => log.add(data, { kind: kindOf(data) }));
  socket.on("state", ({ state }) => {
    if (state === "open" && lost) {
      log.add("back: what was said meanwhile is missing here", { kind: "event" });
    }
    lost = state !== "open";
  });
  return { log, socket };
}

function reliableChat(panel) {
  const log = new Log(panel.querySelector("#reliable-log"));
  const socket = open("/ws/reliable", { json: true, resume: true });

  showStatus(panel.querySelector("#reliable-status"), socket);
  socket.on("resumed", ({ recovered, missed }) => {
    if (recovered) log.add(`back: ${counted(missed)} missed`, { kind: "event" });
  });
  socket.on("message", ({ data, position, replayed }) => {
    if (data.type === "line") showLine(log, data.text, position, replayed ? "replayed" : "");
    if (data.type === "snapshot") showSnapshot(log, data.lines);
    if (data.type === "error") log.add(data.message, { kind: "error" });
  });
  return { log, socket };
}

/** What is in a snapshot may also be on its way, or have been shown before. */
function showLine(log, text, position, mark) {
  if (!log.has(position)) log.add(text, { position, mark });
}

function showSnapshot(log, lines) {
  const count = lines.length ? `here are the last ${lines.length} messages` : "no message is kept";
  log.add(`too long away: ${count}`, { kind: "event" });
  for (const { text, position } of lines) showLine(log, text, position, "snapshot");
}

function counted(missed) {
  if (missed === 0) return "no message was";
  return missed === 1 ? "1 message was" : `${missed} messages were`;
}

/** Closes the sockets, and opens them again after a while or when it is pressed again. */
function dropButton(panel, sockets) {
  const button = panel.querySelector("#chats-drop");
  const hint = panel.querySelector("#chats-hint");
  const label = button.textContent;
  let left = 0;
  let timer = 0;

  const drop = () => {
    for (const socket of sockets) socket.close();
    left = AWAY;
    timer = setInterval(count, 1000);
    hint.textContent = DROPPED;
    draw();
  };
  const comeBack = () => {
    clearInterval(timer);
    left = 0;
    for (const socket of sockets) socket.connect();
    hint.textContent = BACK;
    draw();
  };
  const count = () => {
    left -= 1;
    if (left) draw();
    else comeBack();
  };
  const draw = () => {
    button.textContent = left ? `Reconnect (in ${left} s)` : label;
  };
  button.addEventListener("click", () => (left ? comeBack() : drop()));
}
