import { RateChart } from "../chart.js";
import { enableWhileOpen, kindOf, notConnected } from "../form.js";
import { element, Log } from "../log.js";
import { open } from "../socket.js";
import { showStatus } from "../status.js";

const KINDS = ["page_view", "button_click", "user_login", "session_duration", "error", "other"];
const SHOWN_EVENTS = 50;

export function analyticsPanel(panel) {
  const log = new Log(panel.querySelector("#analytics-log"), SHOWN_EVENTS);
  const chart = new RateChart(panel.querySelector("#analytics-chart"), KINDS);
  const count = legend(panel.querySelector("#analytics-legend"));
  const socket = open("/ws/analytics");

  showStatus(panel.querySelector("#analytics-status"), socket);
  enableWhileOpen(panel.querySelector("#analytics-send"), socket);
  socket.on("message", ({ data }) => {
    const remark = kindOf(data);
    log.add(data, { kind: remark });
    if (remark) return;
    const kind = kindOfEvent(data);
    chart.count(kind);
    count(kind);
  });
  panel.querySelector("#analytics-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = panel.querySelector("#analytics-event").value;
    if (!socket.send(`${name} from-the-page`)) notConnected(log);
  });
  chart.onFigures = showFigures(panel);
  chart.start();
}

function kindOfEvent(text) {
  const name = text.split(" ", 1)[0];
  return KINDS.includes(name) ? name : "other";
}

/** Draws one entry per kind; returns a function that counts one more event of a kind. */
function legend(list) {
  const counters = new Map();
  for (const kind of KINDS) {
    const entry = element("li");
    entry.dataset.series = kind;
    const counter = element("b", "", "0");
    entry.append(element("span", "", kind), " ", counter);
    list.append(entry);
    counters.set(kind, counter);
  }
  return (kind) => {
    const counter = counters.get(kind);
    counter.textContent = Number(counter.textContent) + 1;
  };
}

function showFigures(panel) {
  const last = panel.querySelector("#rate-last");
  const peak = panel.querySelector("#rate-peak");
  const total = panel.querySelector("#rate-total");
  return (figures) => {
    last.textContent = figures.last;
    peak.textContent = figures.peak;
    total.textContent = figures.total;
  };
}
