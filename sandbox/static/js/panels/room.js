import { kindOf, notConnected, onSubmit } from "../form.js";
import { Log } from "../log.js";
import { spoken } from "../name.js";
import { open } from "../socket.js";
import { showStatus } from "../status.js";

// RoomChatConsumer sends "Otter-27: text", "Otter-27 joined lobby" and "Otter-27 left".
const COMING_AND_GOING = /^\S+ (joined .+|left)$/s;

// The close code after which this page left by itself. With any other, the room refused it.
const LEFT = 1000;

export function roomPanel(panel) {
  const log = new Log(panel.querySelector("#room-log"));
  const name = panel.querySelector("#room-name");
  const text = panel.querySelector("#room-text");
  // One per visit, because each room has an address of its own.
  let socket = null;

  const enter = (room) => {
    // With a space, which the server removes: browsers would take "." and ".." as steps of a path.
    socket = open(`/ws/room/${encodeURIComponent(`${room} `)}`);
    showStatus(panel.querySelector("#room-status"), socket);
    socket.on("message", ({ data }) => show(log, data));
    socket.on("state", ({ state, code, reason }) => {
      allow(panel, state);
      if (state === "closed" && code !== LEFT) {
        log.add(reason || `closed with code ${code}`, { kind: "error" });
      }
    });
    allow(panel, socket.state);
  };
  panel.querySelector("#room-join").addEventListener("submit", (event) => {
    event.preventDefault();
    const room = name.value.trim();
    if (socket && socket.state !== "closed") socket.close();
    else if (room) enter(room);
  });
  panel.querySelector("#room-toggle").disabled = false;
  onSubmit(panel.querySelector("#room-form"), text, (line) => socket.send(line) || notConnected(log));
}

function show(log, message) {
  const kind = kindOf(message);
  if (!kind && spoken(message).author) log.addLine(message);
  else log.add(message, { kind: COMING_AND_GOING.test(message) ? "event" : kind });
}

const PLACEHOLDERS = {
  open: "Message to the room",
  closed: "Connect to a room first",
};

/** A room is chosen while disconnected, and written to while connected. */
function allow(panel, state) {
  const field = panel.querySelector("#room-text");
  const send = panel.querySelector("#room-form button");
  field.disabled = send.disabled = state !== "open";
  field.placeholder = PLACEHOLDERS[state] ?? "Waiting for the connection";
  panel.querySelector("#room-name").readOnly = state !== "closed";
  panel.querySelector("#room-toggle").textContent = state === "closed" ? "Connect" : "Disconnect";
}
