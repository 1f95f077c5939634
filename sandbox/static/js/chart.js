/**
 * Events per second of the last minute, as stacked bars: one bar per second, one colour per
 * kind. The bar on the right is the current second, which is not over yet.
 */

const SECONDS = 60;
const HEIGHT = 210;
const LEFT = 34;
const RIGHT = 6;
const TOP = 10;
const BOTTOM = 26;

// The share of a second's width that its bar takes.
const BAR_SHARE = 0.78;

export class RateChart {
  /** Called with { last, peak, total } after each drawing. */
  onFigures = () => {};

  #svg;
  #kinds;
  #buckets = [];
  #total = 0;
  #width = LEFT + RIGHT;
  #scheduled = false;

  constructor(svg, kinds) {
    this.#svg = svg;
    this.#kinds = kinds;
  }

  /** Draws now and at every full second, because time moves the bars. */
  start() {
    this.#draw();
    setTimeout(() => this.start(), 1000 - (Date.now() % 1000));
  }

  count(kind) {
    const bucket = this.#bucketOf(currentSecond());
    bucket.counts[kind] = (bucket.counts[kind] ?? 0) + 1;
    this.#total += 1;
    this.#schedule();
  }

  #bucketOf(second) {
    let last = this.#buckets.at(-1);
    if (last?.second !== second) {
      last = { second, counts: {} };
      this.#buckets.push(last);
    }
    return last;
  }

  /** Draws once per frame, however many events arrive. */
  #schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      this.#draw();
    });
  }

  #draw() {
    const now = currentSecond();
    this.#buckets = this.#buckets.filter((bucket) => bucket.second > now - SECONDS);
    const sums = this.#buckets.map((bucket) => sum(bucket.counts));
    const peak = Math.max(0, ...sums);
    const scale = roundScale(peak);
    // One unit of the drawing is one pixel, so that text has its usual size on a phone.
    // A tab in the background may have no layout, and then this width is 0.
    this.#width = this.#svg.clientWidth || this.#width;
    this.#svg.setAttribute("viewBox", `0 0 ${this.#width} ${HEIGHT}`);
    this.#svg.replaceChildren(
      ...grid(scale, this.#width - RIGHT),
      ...this.#buckets.flatMap((bucket) => this.#bar(bucket, now, scale)),
    );
    const complete = this.#buckets.find((bucket) => bucket.second === now - 1);
    this.#describe({ last: complete ? sum(complete.counts) : 0, peak, total: this.#total });
  }

  #bar({ second, counts }, now, scale) {
    const right = this.#width - RIGHT;
    const width = (right - LEFT) / SECONDS;
    const x = right - (now - second + 1) * width;
    let top = HEIGHT - BOTTOM;
    return this.#kinds
      .filter((kind) => counts[kind])
      .map((kind) => {
        const height = (counts[kind] / scale) * (HEIGHT - TOP - BOTTOM);
        top -= height;
        const attributes = { x, y: top, width: width * BAR_SHARE, height, class: "bar" };
        const bar = shape("rect", attributes);
        bar.dataset.series = kind;
        return bar;
      });
  }

  #describe(figures) {
    const { last, peak, total } = figures;
    this.#svg.setAttribute(
      "aria-label",
      `Analytics events: ${last} in the last full second, ${peak} at the peak of the last minute, ${total} in all`,
    );
    this.onFigures(figures);
  }
}

function grid(scale, right) {
  const bottom = HEIGHT - BOTTOM;
  const lines = [0, 0.5, 1].flatMap((share) => {
    const y = bottom - share * (bottom - TOP);
    return [
      shape("line", { x1: LEFT, x2: right, y1: y, y2: y, class: "grid" }),
      label(scale * share, { x: LEFT - 8, y: y + 4, "text-anchor": "end" }),
    ];
  });
  const baseline = { y: HEIGHT - 8 };
  return [
    ...lines,
    label("60 s ago", { ...baseline, x: LEFT, "text-anchor": "start" }),
    label("30 s", { ...baseline, x: (LEFT + right) / 2, "text-anchor": "middle" }),
    label("now", { ...baseline, x: right, "text-anchor": "end" }),
  ];
}

/** Returns the next of 4, 10, 20, 40, 100, 200 ..., which have whole numbers as halves. */
function roundScale(peak) {
  for (let power = 1; ; power *= 10) {
    const scale = [4, 10, 20].map((step) => step * power).find((step) => step >= peak);
    if (scale) return scale;
  }
}

function label(text, attributes) {
  const made = shape("text", { ...attributes, class: "axis" });
  made.textContent = text;
  return made;
}

function shape(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function sum(counts) {
  return Object.values(counts).reduce((total, count) => total + count, 0);
}

function currentSecond() {
  return Math.floor(Date.now() / 1000);
}
