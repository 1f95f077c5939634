import { enableWhileOpen, notConnected, onSubmit } from "../form.js";
import { Log } from "../log.js";
import { NAME } from "../name.js";
import { open } from "../socket.js";
import { showStatus } from "../status.js";

export function notificationsPanel(panel) {
  const log = new Log(panel.querySelector("#notifications-log"));
  const field = panel.querySelector("#notifications-text");
  const socket = open("/ws/notifications", { json: true });

  showStatus(panel.querySelector("#notifications-status"), socket);
  enableWhileOpen(panel.querySelector("#notifications-send"), socket);
  socket.on("message", ({ data: { type, title, message, level } }) => {
    log.add(message, { title, kind: type === "error" ? "error" : level });
  });
  onSubmit(panel.querySelector("#notifications-form"), field, (message) => {
    const notification = { title: `From ${NAME}`, message, level: "info" };
    return socket.send(notification) || notConnected(log);
  });
}
