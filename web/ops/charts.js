// Charts over the slots of the last hour or quarter: one column for each slot, now at the right.
// A pointer or the arrow keys pick a column, and a line of text says what it holds.

import { element, svg } from "../parts.js";
import { count, duration, minuteOf, plural, timeOf } from "./text.js";

const HEIGHT = 100;
const CLASSES = [
  ["server-errors", "failed (5xx)"],
  ["client-errors", "refused (4xx)"],
  ["completed", "completed"],
];

class Chart {
  constructor(title, legend) {
    this.plot = svg("svg", { preserveAspectRatio: "none", "aria-hidden": "true" });
    this.top = element("span", { class: "top" });
    this.axis = element("p", { class: "axis", "aria-hidden": "true" });
    this.said = element("output", {});
    this.area = element("div", { class: "plot", tabindex: "0", role: "img" }, this.plot, this.top);
    this.element = element(
      "figure",
      {},
      element("figcaption", {}, element("h2", {}, title), legend, this.said),
      this.area,
      this.axis,
    );
    this.picked = null;
    this.area.addEventListener("pointermove", (event) => this.pick(this.under(event)));
    this.area.addEventListener("pointerleave", () => this.pick(null));
    this.area.addEventListener("blur", () => this.pick(null));
    this.area.addEventListener("keydown", (event) => this.step(event));
  }

  /** Show these slots: `{ago, …}`, and as many columns as there were. */
  show(slots, columns, data) {
    this.slots = new Map(slots.map((slot) => [slot.ago, slot]));
    this.columns = columns;
    this.data = data;
    this.plot.setAttribute("viewBox", `0 0 ${columns} ${HEIGHT}`);
    this.plot.replaceChildren(...this.drawn(slots, columns));
    this.area.setAttribute("aria-label", this.summary(slots));
    const ticks = [1, 0.75, 0.5, 0.25, 0].map((part) => data.now - part * columns * data.slotS);
    this.axis.replaceChildren(...ticks.map((at) => element("span", {}, minuteOf(at))));
    this.pick(this.picked);
  }

  under(event) {
    const box = this.area.getBoundingClientRect();
    const column = Math.floor(((event.clientX - box.left) / box.width) * this.columns);
    return this.columns - 1 - Math.min(this.columns - 1, Math.max(0, column));
  }

  step(event) {
    const moves = { ArrowLeft: 1, ArrowRight: -1, Home: this.columns, End: -this.columns };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const from = this.picked ?? -1;
    this.pick(Math.min(this.columns - 1, Math.max(0, from + moves[event.key])));
  }

  pick(ago) {
    this.picked = ago;
    this.plot.querySelector(".picked")?.remove();
    if (ago === null) {
      this.said.textContent = "";
      return;
    }
    const x = this.columns - 1 - ago;
    this.plot.append(svg("rect", { class: "picked", x, y: 0, width: 1, height: HEIGHT }));
    const slot = this.slots.get(ago);
    const at = timeOf(this.data.now - ago * this.data.slotS);
    this.said.textContent = `${at}: ${slot ? this.reading(slot) : "no calls"}`;
  }

  column(slot) {
    return this.columns - 1 - slot.ago;
  }
}

/** Calls in each slot, by how they ended. */
export class CallsChart extends Chart {
  constructor() {
    super("Calls", legend(CLASSES));
  }

  drawn(slots) {
    const most = ceiling(Math.max(1, ...slots.map(total)));
    this.top.textContent = plural(most, "call");
    return slots.flatMap((slot) => {
      let y = HEIGHT;
      return CLASSES.filter(([name]) => slot[name]).map(([name]) => {
        const height = (slot[name] / most) * HEIGHT;
        y -= height;
        return svg("rect", { class: name, x: this.column(slot) + 0.1, y, width: 0.8, height });
      });
    });
  }

  summary(slots) {
    const sums = CLASSES.map(([name, label]) => {
      return `${count(slots.reduce((sum, slot) => sum + slot[name], 0))} ${label}`;
    });
    return `Calls over time: ${sums.reverse().join(", ")}. Arrow keys read single moments.`;
  }

  reading(slot) {
    const parts = CLASSES.filter(([name]) => slot[name]).map(([n, label]) => `${slot[n]} ${label}`);
    return parts.reverse().join(", ");
  }
}

/** From p50 to p95 in each slot, on a logarithmic scale. */
export class LatencyChart extends Chart {
  constructor() {
    super("Latency", legend([["range", "p50 to p95"]]));
  }

  drawn(slots, columns) {
    const timed = slots.filter((slot) => slot.p50 !== null);
    const least = 10 ** Math.floor(Math.log10(Math.min(100, ...timed.map((slot) => slot.p50))));
    const most = 10 ** Math.ceil(Math.log10(Math.max(1000, ...timed.map((slot) => slot.p95)) + 1));
    this.top.textContent = duration(most);
    const y = (ms) => HEIGHT * (1 - Math.log10(ms / least) / Math.log10(most / least));
    const lines = [];
    for (let ms = least * 10; ms < most; ms *= 10) {
      lines.push(svg("line", { class: "grid", x1: 0, x2: columns, y1: y(ms), y2: y(ms) }));
    }
    this.grid(lines.map((_, step) => [duration(least * 10 ** (step + 1)), y(least * 10 ** (step + 1))]));
    const bars = timed.map((slot) => {
      const [top, bottom] = [y(slot.p95), y(slot.p50)];
      const height = Math.max(2, bottom - top);
      return svg("rect", { class: "range", x: this.column(slot) + 0.1, y: top, width: 0.8, height });
    });
    return [...lines, ...bars];
  }

  grid(labels) {
    this.area.querySelectorAll(".level").forEach((label) => label.remove());
    for (const [text, percent] of labels) {
      const label = element("span", { class: "level" }, text);
      label.style.top = `${percent}%`;
      this.area.append(label);
    }
  }

  summary(slots) {
    const timed = slots.filter((slot) => slot.p50 !== null);
    if (!timed.length) return "Latency over time: nothing measured.";
    const worst = timed.reduce((a, b) => (a.p95 > b.p95 ? a : b));
    const last = timed.at(-1);
    return (
      `Latency over time: last p50 ${duration(last.p50)}, p95 ${duration(last.p95)}; ` +
      `highest p95 ${duration(worst.p95)}. Arrow keys read single moments.`
    );
  }

  reading(slot) {
    if (slot.p50 === null) return "nothing measured";
    return `p50 ${duration(slot.p50)}, p95 ${duration(slot.p95)}`;
  }
}

/** The rows of the document by name. */
export function slotsOf(data, columns) {
  return data.slots
    .map(([ago, completed, clientErrors, serverErrors, p50, p95]) => ({
      ago,
      completed,
      "client-errors": clientErrors,
      "server-errors": serverErrors,
      p50,
      p95,
    }))
    .filter((slot) => slot.ago < columns);
}

function legend(entries) {
  const items = entries.map(([name, label]) => {
    const swatch = svg("svg", { class: "swatch", "aria-hidden": "true" });
    swatch.append(svg("rect", { class: name, width: "100%", height: "100%", rx: 2 }));
    return element("li", {}, swatch, label);
  });
  return element("ul", { class: "legend" }, ...items.reverse());
}

const total = (slot) => slot.completed + slot["client-errors"] + slot["server-errors"];

/** The next 1, 2 or 5 with noughts. */
function ceiling(number) {
  const step = 10 ** Math.floor(Math.log10(number));
  return [1, 2, 5, 10].map((n) => n * step).find((n) => n >= number);
}
