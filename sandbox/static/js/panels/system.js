import { enableWhileOpen, kindOf, notConnected, onSubmit } from "../form.js";
import { Log } from "../log.js";
import { open } from "../socket.js";
import { showStatus } from "../status.js";

export function systemPanel(panel) {
  const log = new Log(panel.querySelector("#system-log"));
  const socket = open("/ws/system");

  showStatus(panel.querySelector("#system-status"), socket);
  enableWhileOpen(panel.querySelector("#system-form button"), socket);
  socket.on("message", ({ data }) => log.add(data, { kind: kindOf(data) }));
  onSubmit(panel.querySelector("#system-form"), panel.querySelector("#system-text"), (text) => {
    if (!socket.send(text)) return notConnected(log);
    log.add(text, { title: "you:" });
    return true;
  });
}
