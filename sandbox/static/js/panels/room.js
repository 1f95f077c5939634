import { kindOf, notConnected, onSubmit } from "../form.js";
import { Log } from "../log.js";
import { open } from "../socket.js";
import { showStatus } from "../status.js";

// What RoomChatConsumer sends: "guest-1f2e: text", "guest-1f2e joined lobby", "guest-1f2e left".
const SAID = /^(guest-\S+:) (.*)$/s;
const COMING_AND_GOING = /^guest-\S+ (joined \S+|left)$/;

// We left by ourselves. After any other close for good the room refused us.
const LEFT = 1000;

export function roomPanel(panel) {
  const log = new Log(panel.querySelector("#room-log"));
  const name = panel.querySelector("#room-name");
  const text = panel.querySelector("#room-text");
  // One per visit, since each room has an address of its own.
  let socket = null;

  const enter = (room) => {
    socket = open(`/ws/room/${encodeURIComponent(room)}`);
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
    if (socket && socket.state !== "closed") socket.close();
    else enter(name.value.trim());
  });
  onSubmit(panel.querySelector("#room-form"), text, (line) => socket.send(line) || notConnected(log));
}

function show(log, message) {
  const [, title, text] = SAID.exec(message) ?? [];
  if (title) log.add(text, { title });
  else log.add(message, { kind: COMING_AND_GOING.test(message) ? "event" : kindOf(message) });
}

const PLACEHOLDERS = {
  open: "Message to the room",
  closed: "Connect to a room first",
};

/** A room is chosen while disconnected, and typed into while connected. */
function allow(panel, state) {
  const field = panel.querySelector("#room-text");
  const send = panel.querySelector("#room-form button");
  field.disabled = send.disabled = state !== "open";
  field.placeholder = PLACEHOLDERS[state] ?? "Waiting for the connection";
  panel.querySelector("#room-name").readOnly = state !== "closed";
  panel.querySelector("#room-toggle").textContent = state === "closed" ? "Connect" : "Disconnect";
}
