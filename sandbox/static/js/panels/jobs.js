import { enableWhileOpen, submit } from "../form.js";
import { element } from "../log.js";
import { open } from "../socket.js";
import { showStatus } from "../status.js";

const SHOWN_JOBS = 20;

export function jobsPanel(panel) {
  const list = new JobList(panel.querySelector("#jobs-list"));
  const type = panel.querySelector("#jobs-type");
  const content = panel.querySelector("#jobs-content");
  const socket = open("/ws/backgroundjob", { json: true });
  const showError = errorLine(panel.querySelector("#jobs-error"));

  showStatus(panel.querySelector("#jobs-status"), socket);
  enableWhileOpen(panel.querySelector("#jobs-form button"), socket);
  socket.on("message", ({ data }) => {
    if (data.type === "error") showError(data.message);
    else list.apply(data);
  });
  socket.on("state", ({ state }) => {
    if (state !== "open") list.loseUnfinished();
  });

  panel.querySelector("#jobs-form").addEventListener("submit", (event) => {
    event.preventDefault();
    showError("");
    submit(content, (text) => {
      const sent = socket.send({ type: type.value, content: text });
      if (!sent) showError("not sent: there is no connection now");
      return sent;
    });
  });
}

/** One card per job. The worker's reports have the job's id. */
class JobList {
  #list;
  #cards = new Map();

  constructor(list) {
    this.#list = list;
  }

  apply(message) {
    if (message.type === "job.queued") return this.#add(message);
    const card = this.#cards.get(message.job_id);
    if (!card) return;
    if (message.type === "job.progress") card.progress(message.percent, message.step);
    if (message.type === "job.finished") card.end("finished", message.result);
    if (message.type === "job.failed") card.end("failed", message.reason);
  }

  /** The worker answers the connection that asked. When that is lost, so is the answer. */
  loseUnfinished() {
    for (const card of this.#cards.values()) {
      if (!card.ended) card.end("lost", "the connection was lost, and the answer with it");
    }
  }

  #add({ job_id, job_type, content }) {
    const card = new JobCard(job_type, content);
    this.#cards.set(job_id, card);
    this.#list.prepend(card.root);
    while (this.#cards.size > SHOWN_JOBS) this.#removeOldest();
  }

  #removeOldest() {
    const [id, card] = this.#cards.entries().next().value;
    card.root.remove();
    this.#cards.delete(id);
  }
}

class JobCard {
  ended = false;
  root = element("li", "job");

  #bar = element("progress");
  #percent = element("span", "percent", "0 %");
  #state = element("span", "job-state", "queued");
  #outcome = element("p", "outcome", "waiting for a worker");

  constructor(type, content) {
    this.root.dataset.job = type;
    this.root.dataset.state = "queued";
    this.#bar.max = 100;
    this.#bar.value = 0;
    this.#bar.setAttribute("aria-label", `Progress of ${type}`);
    const head = element("div", "job-head");
    head.append(element("strong", "", type), element("span", "job-content", content), this.#state);
    const line = element("div", "job-bar");
    line.append(this.#bar, this.#percent);
    this.root.append(head, line, this.#outcome);
  }

  progress(percent, step) {
    this.#enter("running");
    this.#bar.value = percent;
    this.#percent.textContent = `${percent} %`;
    this.#outcome.textContent = step;
  }

  end(state, outcome) {
    this.ended = true;
    this.#enter(state);
    this.#outcome.textContent = outcome;
  }

  #enter(state) {
    this.root.dataset.state = state;
    this.#state.textContent = state;
  }
}

function errorLine(line) {
  return (text) => {
    line.textContent = text;
    line.hidden = !text;
  };
}
