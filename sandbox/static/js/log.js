/** A list of messages that keeps the latest and scrolls with them, unless the reader scrolled up. */

import { NAME, spoken } from "./name.js";

const MAX_ENTRIES = 200;

// A reader this many pixels from the end still follows the list.
const NEAR_END = 48;

const clock = new Intl.DateTimeFormat([], { timeStyle: "medium", hourCycle: "h23" });

export class Log {
  #list;
  #limit;

  constructor(list, limit = MAX_ENTRIES) {
    this.#list = list;
    this.#limit = limit;
  }

  /**
   * `kind` is "event", "info", "warning" or "error". `mark` is a word about how the message
   * arrived, `position` its place in its group, and `sentAt` the seconds since 1970 at which it
   * was sent, if that may have been long ago.
   */
  add(text, { kind = "", title = "", mark = "", position = "", sentAt = 0 } = {}) {
    const follow = isNearEnd(this.#list);
    const entry = element("li", "entry");
    if (kind) entry.dataset.kind = kind;
    if (position) entry.dataset.position = position;
    entry.append(body(title, text));
    const note = element("span", "note");
    if (mark) note.append(element("span", "mark", mark), " ");
    note.append(sentAt ? time(new Date(sentAt * 1000), "sent ") : time(new Date()));
    entry.append(note);
    this.#list.append(entry);
    while (this.#list.children.length > this.#limit) this.#list.firstElementChild.remove();
    if (follow) this.#list.scrollTop = this.#list.scrollHeight;
  }

  /** Adds a line such as "Otter-27: hello", with its author as the title. */
  addLine(line, options) {
    const { author, text } = spoken(line);
    this.add(text, { ...options, title: author && (author === NAME ? "you:" : `${author}:`) });
  }

  /** Returns whether the message at this position is in the list. */
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
  if (title) {
    const heading = element("strong", "", title);
    if (title === "you:") heading.className = "own";
    made.append(heading, " ");
  }
  made.append(element("span", "said", text));
  return made;
}

function time(date, prefix = "") {
  const made = element("time", "", `${prefix}${clock.format(date)}`);
  made.dateTime = date.toISOString();
  return made;
}
