import { analyticsPanel } from "./panels/analytics.js";
import { chatsPanel } from "./panels/chats.js";
import { jobsPanel } from "./panels/jobs.js";
import { notificationsPanel } from "./panels/notifications.js";
import { roomPanel } from "./panels/room.js";
import { systemPanel } from "./panels/system.js";

systemPanel(document.querySelector("#system"));
roomPanel(document.querySelector("#room"));
jobsPanel(document.querySelector("#jobs"));
chatsPanel(document.querySelector("#chats"));
notificationsPanel(document.querySelector("#notifications"));
analyticsPanel(document.querySelector("#analytics"));
