import { analyticsPanel } from "./panels/analytics.js";
import { chatsPanel } from "./panels/chats.js";
import { jobsPanel } from "./panels/jobs.js";
import { notificationsPanel } from "./panels/notifications.js";
import { roomPanel } from "./panels/room.js";
import { systemPanel } from "./panels/system.js";

// TODO 2.3: show the panel of the system messages
// TODO 3.7: show the panel of the rooms
// TODO 4.10: show the panel of the jobs
// TODO 5.5: show the panel of the two chats
// TODO 5.9: show the panel of the notifications
// TODO 5.16: show the panel of the analytics
