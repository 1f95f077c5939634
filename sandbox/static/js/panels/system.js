import { kindOf, notConnected, onSubmit } from "../form.js";
import { Log } from "../log.js";
import { LiveSocket } from "../socket.js";
import { showStatus } from "../status.js";

export function systemPanel(panel) {
  const log = new Log(panel.querySelector("#system-log"));
  const socket = new LiveSocket("/ws/system");

  showStatus(panel.querySelector("#system-status"), socket);
  socket.addEventListener("message", ({ detail }) => log.add(detail, { kind: kindOf(detail) }));
  onSubmit(panel.querySelector("#system-form"), panel.querySelector("#system-text"), (text) => {
    if (!socket.send(text)) return notConnected(log);
    log.add(text, { kind: "own" });
    return true;
  });
  socket.connect();
}
