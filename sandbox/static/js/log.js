/** A list of messages that keeps the latest and follows them, unless somebody scrolled up. */

const LIMIT = 200;

// Closer to the end than this many pixels counts as reading along.
const NEAR_END = 48;

const clock = new Intl.DateTimeFormat([], { timeStyle: "medium", hourCycle: "h23" });

export class Log {
  #list;
  #limit;

  constructor(list, limit = LIMIT) {
    this.#list = list;
    this.#limit = limit;
  }

  /**
   * `kind` is "own", "event", "info", "warning" or "error". `mark` is a word about how it came
   * here, and `position` where it stands in its group.
   */
  add(text, { kind = "", title = "", mark = "", position = "" } = {}) {
    const follow = isNearEnd(this.#list);
    const entry = element("li", "entry");
    if (kind) entry.dataset.kind = kind;
    if (position) entry.dataset.position = position;
    entry.append(body(title, text));
    if (mark) entry.append(element("span", "mark", mark));
    entry.append(time(new Date()));
    this.#list.append(entry);
    while (this.#list.children.length > this.#limit) this.#list.firstElementChild.remove();
    if (follow) this.#list.scrollTop = this.#list.scrollHeight;
  }

  /** Whether the message at this position is among them. */
  has(position) {
    return [...this.#list.children].some((entry) => entry.dataset.position === position);
  }
}

/** The only way this page makes elements: their text is text, never HTML. */
export function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

export function isNearEnd(list) {
  return list.scrollHeight - list.scrollTop - list.clientHeight < NEAR_END;
}

function body(title, text) {
  const made = element("span", "text");
  if (title) made.append(element("strong", "", title), " ");
  made.append(text);
  return made;
}

function time(date) {
  const made = element("time", "", clock.format(date));
  made.dateTime = date.toISOString();
  return made;
}
