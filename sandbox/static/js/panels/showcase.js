import { kindOf, notConnected, onSubmit, submit } from "../form.js";
import { Log } from "../log.js";
import { LiveSocket } from "../socket.js";
import { showStatus } from "../status.js";

export function showcasePanel(panel) {
  const log = new Log(panel.querySelector("#showcase-log"));
  const field = panel.querySelector("#showcase-text");
  const chat = chatSocket(panel, log, "chat", "chat");
  const reliable = chatSocket(panel, log, "reliable", "queue");
  const notifications = notificationSocket(panel, log);

  onSubmit(panel.querySelector("#showcase-form"), field, (text) => {
    // Not `||`: one layer must not wait for the other to fail.
    const sent = [chat.send(text), reliable.send(text)];
    return sent.includes(true) || notConnected(log);
  });
  panel.querySelector("#showcase-notify").addEventListener("click", () => {
    submit(field, (text) => {
      const notification = { title: "From the page", message: text, level: "info" };
      return notifications.send(JSON.stringify(notification)) || notConnected(log);
    });
  });
}

function chatSocket(panel, log, route, layer) {
  const socket = open(panel, route);
  socket.addEventListener("message", ({ detail }) => log.add(detail, { layer, kind: kindOf(detail) }));
  return socket;
}

function notificationSocket(panel, log) {
  const socket = open(panel, "notifications");
  socket.addEventListener("message", ({ detail }) => {
    const { type, title, message, level } = JSON.parse(detail);
    const kind = type === "error" ? "error" : level;
    log.add(message, { layer: "notifications", title, kind });
  });
  return socket;
}

function open(panel, route) {
  const socket = new LiveSocket(`/ws/${route}`);
  showStatus(panel.querySelector(`#${route}-status`), socket);
  socket.connect();
  return socket;
}
