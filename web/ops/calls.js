// The list of recent calls, and the timeline of the one that is opened.

import { copyButton, element, svg } from "../parts.js";
import { age, cost, count, duration, outcomeClass, plural, timeOf, usd, words } from "./text.js";

const narrow = matchMedia("(max-width: 56rem)"); // as in calls.css
const columns = () => (narrow.matches ? 4 : 10);
const FILTERS = ["code", "route", "model"];

narrow.addEventListener("change", () => {
  for (const cell of document.querySelectorAll(".detail > td")) cell.colSpan = columns();
});

export class Calls {
  constructor(body, none) {
    this.body = body;
    this.none = none;
    this.rows = [];
    this.failedOnly = document.getElementById("filter-failed");
    this.failedOnly.addEventListener("change", () => this.filter());
    this.selects = FILTERS.map((field) => {
      const select = document.getElementById(`filter-${field}`);
      select.addEventListener("change", () => this.filter());
      return [field, select];
    });
  }

  /** Put these on top, the oldest first, and keep no more than `most`. */
  add(calls, most) {
    for (const call of calls) {
      const row = this.row(call);
      this.rows.unshift({ call, row });
      this.body.prepend(row);
      for (const [field, select] of this.selects) offer(select, call[field]);
    }
    for (const { row } of this.rows.splice(most)) {
      row.nextElementSibling?.matches(".detail") && row.nextElementSibling.remove();
      row.remove();
    }
    if (calls.length) this.filter();
  }

  clear() {
    this.rows = [];
    this.body.replaceChildren();
  }

  filter() {
    let shown = 0;
    for (const { call, row } of this.rows) {
      const fits = this.selects.every(([field, { value }]) => !value || call[field] === value);
      row.hidden = !fits || (this.failedOnly.checked && call.code === "completed");
      const detail = row.nextElementSibling;
      if (detail?.matches(".detail")) detail.hidden = row.hidden;
      shown += !row.hidden;
    }
    this.none.hidden = shown > 0;
    if (this.rows.length) this.none.textContent = "None of the recent calls is like that.";
  }

  row(call) {
    const opener = element("button", { type: "button", "aria-expanded": "false" }, timeOf(call.endedAt));
    const tokens = (call.promptTokens ?? 0) + (call.answerTokens ?? 0);
    const cells = [
      ["", opener],
      ["", outcome(call)],
      ["wide", call.route],
      ["wide", call.model ?? "–"],
      ["wide", call.caller],
      ["shape", shape(call)],
      ["number", duration(call.latencyMs)],
      ["number wide", duration(call.firstTokenMs)],
      ["number wide", tokens ? count(tokens) : "–"],
      ["number wide", price(call)],
    ];
    const row = element(
      "tr",
      { class: outcomeClass(call.code, call.status) },
      ...cells.map(([name, content]) => element("td", { class: name || null }, content)),
    );
    row.addEventListener("click", (event) => {
      const selected = getSelection();
      const selecting = event.detail && !selected.isCollapsed && row.contains(selected.anchorNode);
      if (!selecting) toggle(row, opener, call);
    });
    return row;
  }
}

function toggle(row, opener, call) {
  const open = opener.getAttribute("aria-expanded") === "true";
  opener.setAttribute("aria-expanded", String(!open));
  row.classList.toggle("open", !open);
  if (open) row.nextElementSibling.remove();
  else row.after(element("tr", { class: "detail" }, element("td", { colspan: columns() }, ...detail(call))));
}

function offer(select, value) {
  if (value === undefined) return;
  const options = [...select.options];
  if (options.some((option) => option.value === value)) return;
  const after = options.slice(1).find((option) => option.value > value);
  select.insertBefore(element("option", { value }, words(value)), after ?? null);
}

function outcome(call) {
  const reason = call.reason ? ` · ${words(call.reason)}` : "";
  return element(
    "span",
    { class: "outcome" },
    element("span", { class: "dot", "aria-hidden": "true" }),
    element("b", {}, words(call.code)),
    ` ${call.code === "completed" ? "" : call.status}${reason}`,
  );
}

const price = (call) => (call.countedBy ? cost(call.usd ?? 0, call.usd === undefined ? 1 : 0) : "–");

/** What the call did when: `{kind, label, from, to}` in milliseconds from its start. */
function steps(call) {
  const found = [];
  let at = 0;
  call.attempts.forEach((attempt, index) => {
    const { provider, model, beganMs, tookMs, reason } = attempt;
    const before = index ? "backoff" : "guards";
    if (beganMs > at || !index) found.push({ kind: before, label: before, from: at, to: beganMs });
    at = beganMs + tookMs;
    found.push({
      kind: reason ? "failed" : "answered",
      label: `attempt ${index + 1}: ${provider}, ${model}`,
      note: reason ? words(reason) : "answered",
      from: beganMs,
      to: at,
    });
  });
  if (call.firstTokenMs !== undefined) {
    found.push({
      kind: "stream",
      label: "stream",
      note: `first token at ${duration(call.firstTokenMs)}`,
      from: call.firstTokenMs,
      to: call.latencyMs,
    });
  }
  return found;
}

function bar(step, call) {
  const percent = (ms) => (100 * ms) / Math.max(call.latencyMs, 0.1);
  const width = Math.max(0.6, percent(step.to - step.from));
  const x = Math.min(percent(step.from), 100 - width);
  return svg("rect", { class: step.kind, x: `${x}%`, width: `${width}%`, height: "100%", rx: 2 });
}

/** The timeline in one line. */
function shape(call) {
  const retried = call.attempts.length > 1 ? `${call.attempts.length} attempts` : "";
  const bars = steps(call).map((step) => bar(step, call));
  const picture = svg("svg", { "aria-hidden": "true" }, ...bars);
  return element("span", { class: "track" }, picture, element("span", { class: "unseen" }, retried));
}

function detail(call) {
  return [timeline(call), facts(call)];
}

function timeline(call) {
  const first = call.firstTokenMs;
  const items = steps(call).map((step) => {
    const picture = svg("svg", { "aria-hidden": "true" }, bar(step, call));
    if (first !== undefined) {
      const x = `${(100 * first) / Math.max(call.latencyMs, 0.1)}%`;
      picture.append(svg("line", { class: "first-token", x1: x, x2: x, y1: 0, y2: "100%" }));
    }
    const took = duration(step.to - step.from);
    return element(
      "li",
      { class: step.kind },
      element("span", { class: "label" }, step.label),
      element("span", { class: "track" }, picture),
      element("span", { class: "took" }, step.note ? `${took}, ${step.note}` : took),
    );
  });
  if (!items.length) return element("p", { class: "quiet" }, unasked(call));
  const marks = ["0", `total ${duration(call.latencyMs)}`].map((mark) => element("span", {}, mark));
  return element(
    "div",
    { class: "timeline" },
    element("ol", { "aria-label": "Timeline" }, ...items),
    element("p", { class: "marks" }, ...marks),
  );
}

function unasked(call) {
  if (call.replayed) return "Answered from the recording of another request with the same key.";
  return "The provider was not asked.";
}

function facts(call) {
  const counted = { provider: "by the provider", estimated: "by us", partial: "by us, at most" };
  const id = element("code", {}, call.requestId);
  const rows = [
    ["request id", id, copyButton("Copy", id, () => call.requestId)],
    ["route", call.route + (call.stream ? ", streamed" : "")],
    ["caller", call.caller],
    ["model", call.model],
    [
      "tokens",
      call.countedBy &&
        `${count(call.promptTokens ?? 0)} + ${count(call.answerTokens ?? 0)}, counted ${counted[call.countedBy]}`,
    ],
    ["cost", call.countedBy && (call.usd === undefined ? "unknown" : usd(call.usd))],
    ["finish", call.finishReason && words(call.finishReason) + (call.cut ? ", cut by us" : "")],
    ["redacted", call.redactions && plural(call.redactions, "value")],
    ["provider’s id", call.providerRequestId && element("code", {}, call.providerRequestId)],
    ["ended", `${age(Math.max(0, Date.now() / 1000 - call.endedAt))} ago`],
  ];
  const pairs = rows
    .filter(([, value]) => value)
    .map(([name, ...value]) => element("div", {}, element("dt", {}, name), element("dd", {}, ...value)));
  return element("dl", { class: "facts" }, ...pairs);
}
