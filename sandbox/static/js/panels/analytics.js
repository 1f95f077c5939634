import { RateChart } from "../chart.js";
import { enableWhileOpen, kindOf, notConnected } from "../form.js";
import { element, Log } from "../log.js";
import { open } from "../socket.js";
import { showStatus } from "../status.js";

const KINDS = ["page_view", "button_click", "user_login", "session_duration", "error", "other"];
const SHOWN_EVENTS = 50;

// AnalyticsConsumer sends "📊 Analytics: page_view /pricing" for an event of a page, the script
// "📊 Event: ...". A worker counts events later, which makes "counted: page_view /pricing".
const EVENT = /^📊 (?:Analytics|Event): (.+)$/su;
const COUNTED = "counted: ";

export function analyticsPanel(panel) {
  const log = new Log(panel.querySelector("#analytics-log"), SHOWN_EVENTS);
  const chart = new RateChart(panel.querySelector("#analytics-chart"), KINDS);
  const count = legend(panel.querySelector("#analytics-legend"));
  const showCounted = counter(panel.querySelector("#rate-counted"));
  const socket = open("/ws/analytics");

  showStatus(panel.querySelector("#analytics-status"), socket);
  enableWhileOpen(panel.querySelector("#analytics-send"), socket);
  socket.on("message", ({ data }) => {
    if (data.startsWith(COUNTED)) {
      showCounted();
      return;
    }
    const [, event] = EVENT.exec(data) ?? [];
    log.add(event ?? data, { kind: event ? "" : kindOf(data) || "event" });
    if (!event) return;
    const kind = kindOfEvent(event);
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
  const name = /^\w*/.exec(text)[0];
  return KINDS.includes(name) ? name : "other";
}

/** Draws one entry per kind; returns a function that counts one more event of a kind. */
function legend(list) {
  const counters = new Map();
  for (const kind of KINDS) {
    const entry = element("li");
    entry.dataset.series = kind;
    const number = element("b", "", "0");
    entry.append(element("span", "", kind), " ", number);
    list.append(entry);
    counters.set(kind, counter(number));
  }
  return (kind) => counters.get(kind)();
}

/** Returns a function that adds one to a number of the page. */
function counter(number) {
  return () => {
    number.textContent = Number(number.textContent) + 1;
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
