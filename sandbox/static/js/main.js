import { analyticsPanel } from "./panels/analytics.js";
import { chatsPanel } from "./panels/chats.js";
import { jobsPanel } from "./panels/jobs.js";
import { notificationsPanel } from "./panels/notifications.js";
import { roomPanel } from "./panels/room.js";
import { systemPanel } from "./panels/system.js";

/** The panels by their ids, each with the paths of its sockets below /ws. */
const PANELS = [
  ["system", systemPanel, ["/system"]],
  ["room", roomPanel, ["/room/{room_name:path}"]],
  ["jobs", jobsPanel, ["/backgroundjob"]],
  ["chats", chatsPanel, ["/chat", "/reliable"]],
  ["notifications", notificationsPanel, ["/notifications"]],
  ["analytics", analyticsPanel, ["/analytics"]],
];

// In the tutorial, the application gets its sockets one after the other.
const response = await fetch("/sockets", { cache: "no-store" });
const sockets = await response.json();
for (const [id, start, paths] of PANELS) {
  if (paths.every((path) => sockets.includes(path))) start(document.getElementById(id));
}
