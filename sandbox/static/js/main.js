import { analyticsPanel } from "./panels/analytics.js";
import { jobsPanel } from "./panels/jobs.js";
import { roomPanel } from "./panels/room.js";
import { showcasePanel } from "./panels/showcase.js";
import { systemPanel } from "./panels/system.js";

systemPanel(document.querySelector("#system"));
roomPanel(document.querySelector("#room"));
jobsPanel(document.querySelector("#jobs"));
showcasePanel(document.querySelector("#showcase"));
analyticsPanel(document.querySelector("#analytics"));
