// The figures and the panels below the charts.

import { element, svg } from "../parts.js";
import {
  age,
  cost,
  count,
  duration,
  outcomeClass,
  plural,
  share,
  timeOf,
  usd,
  words,
} from "./text.js";

const PERIODS = { quarter: "in the last 15 min", hour: "in the last hour", day: "today" };
const STATES = { closed: "closed", open: "open", half_open: "half open" };
const LIMITS = { requests: "requests", tokens: "tokens", usd: "dollars", in: "calls in flight" };

const drawn = new Map();

/** Put these elements there, if what they show has changed: else a selection would be lost. */
function show(place, facts, elements) {
  const key = JSON.stringify(facts);
  if (drawn.get(place) === key) return;
  drawn.set(place, key);
  place.replaceChildren(...elements());
}

export function showFigures(place, data, name) {
  const span = data.spans[name];
  const calls = span.completed + span.clientErrors + span.serverErrors;
  const sum = (what) => span.callers.reduce((all, row) => all + row[what], 0);
  const spent = cost(sum("usd"), sum("unpriced"));
  const rate = data.callsPerS ? count(Number(data.callsPerS.toPrecision(2))) : "0";
  const figures = [
    ["Calls now", `${rate}/s`, `${count(data.inFlight)} in flight of ${count(data.maxInFlight)}`],
    ["Calls", count(calls), `${count(span.completed)} completed ${PERIODS[name]}`],
    [
      "Failed",
      share(span.serverErrors, calls),
      `${plural(span.serverErrors, "call")}; ${count(span.clientErrors)} refused`,
      span.serverErrors ? "alarm" : "",
    ],
    ["Latency p50", duration(span.latencyMs.p50), percentiles(span.latencyMs)],
    ["First token p50", duration(span.firstTokenMs.p50), percentiles(span.firstTokenMs)],
    [
      "Retries",
      count(span.retries),
      `of ${plural(span.attempts, "attempt")}; ${count(data.retries.left)} more allowed now`,
      data.retries.left < 1 ? "alarm" : "",
    ],
    [
      "Spent",
      spent,
      `${count(sum("promptTokens"))} prompt + ${count(sum("answerTokens"))} answer tokens`,
    ],
  ];
  show(place, figures, () =>
    figures.map(([title, value, note, mood]) =>
      element(
        "div",
        { class: mood || null },
        element("dt", {}, title),
        element("dd", { class: "value" }, value),
        element("dd", {}, note),
      ),
    ),
  );
}

function percentiles({ p95, p99 }) {
  return `p95\u00a0${duration(p95)} · p99\u00a0${duration(p99)}`;
}

export function showPanels(place, data, name) {
  const span = data.spans[name];
  const facts = [span, data.circuits, data.limits, data.store === "redis"];
  show(place, facts, () => [
    panel("Outcomes", ranked(outcomes(span.codes, data.statuses))),
    panel("Providers", ...data.circuits.map((circuit) => provider(circuit, span.faults))),
    panel("Callers", spending(span.callers, "caller")),
    panel("Models", spending(span.models, "model")),
    panel("Limits", ...limits(data, span.limits)),
    panel("Routes", ranked(Object.entries(span.routes))),
    panel("Redacted from prompts", ranked(entriesInWords(span.redactions))),
  ]);
}

function panel(title, ...content) {
  return element("section", {}, element("h2", {}, title), ...content);
}

const outcomes = (codes, statuses) =>
  Object.entries(codes).map(([code, n]) => [words(code), n, outcomeClass(code, statuses[code])]);

const entriesInWords = (counts) => Object.entries(counts).map(([name, n]) => [words(name), n]);

/** Names with their counts and bars, `[name, count, class]`. */
function ranked(rows, none = "none") {
  if (!rows.length) return element("p", { class: "quiet" }, none);
  const most = Math.max(...rows.map(([, n]) => n));
  const items = rows.map(([name, n, kind = "plain"]) =>
    element(
      "li",
      {},
      element("span", { class: "name" }, name),
      element("span", { class: "number" }, count(n)),
      meter(n / most, kind),
    ),
  );
  return element("ul", { class: "ranked" }, ...items);
}

function meter(part, kind) {
  const width = `${Math.max(0.5, 100 * Math.min(1, part))}%`;
  const bar = svg("rect", { class: kind, width, height: "100%", rx: 2 });
  return svg("svg", { class: "meter", "aria-hidden": "true" }, bar);
}

function provider({ provider: name, state, openForS }, faults) {
  const text = state === "open" ? `open, probe in ${age(openForS)}` : STATES[state];
  const reasons = faults.filter((fault) => fault.provider === name);
  return element(
    "div",
    { class: "provider" },
    element("h3", {}, name, " ", element("span", { class: `badge ${state}` }, `circuit ${text}`)),
    ranked(
      reasons.map(({ reason, attempts }) => [words(reason), attempts, "server-errors"]),
      "no failed attempts",
    ),
  );
}

function spending(rows, what) {
  if (!rows.length) return element("p", { class: "quiet" }, "none");
  const head = [what, "calls", "failed", "tokens", "cost"].map((title, column) =>
    element("th", { scope: "col", class: column ? "number" : null }, title),
  );
  const body = rows.map((row) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, row.name ?? element("em", {}, "all others")),
      element("td", { class: "number" }, count(row.calls)),
      element("td", { class: `number ${row.serverErrors ? "alarm" : ""}` }, count(row.serverErrors)),
      element("td", { class: "number" }, count(row.promptTokens + row.answerTokens)),
      element("td", { class: "number" }, cost(row.usd, row.unpriced)),
    ),
  );
  return element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body));
}

function limits(data, refused) {
  const used = data.limits.map(({ rule, used: amount, maximum }) => {
    const shown = rule.includes("usd") ? usd : (number) => count(Math.floor(number));
    const part = amount / maximum;
    return element(
      "li",
      {},
      element("span", { class: "name" }, limitName(rule)),
      element("span", { class: "number" }, `${shown(amount)} of ${shown(maximum)}`),
      meter(part, part > 0.8 ? "server-errors" : "plain"),
    );
  });
  const none =
    data.store === "memory" ? "No limit of the whole server is set." : "Counted in Redis by all.";
  return [
    used.length
      ? element("ul", { class: "ranked" }, ...used)
      : element("p", { class: "quiet" }, none),
    element("h3", {}, "Calls refused"),
    ranked(Object.entries(refused).map(([rule, n]) => [limitName(rule), n, "client-errors"])),
  ];
}

/** `total-usd-per-day` as words. */
function limitName(rule) {
  const [scope, what, , per] = rule.split("-");
  const whose = { total: "server", ip: "one address", caller: "one caller" }[scope] ?? scope;
  return `${LIMITS[what] ?? what}${per ? ` a ${per}` : ""}, ${whose}`;
}

export function showServer(place, data) {
  const facts = [
    `Sluice ${data.version}`,
    { live: "asks the provider", replay: "replays recordings", record: "records" }[data.mode],
    { memory: "state in memory", redis: "state in Redis", down: "Redis is down" }[data.store],
    `up ${age(data.uptimeS)}, since ${timeOf(data.startedAt)}`,
    data.draining ? "draining" : null,
    "figures of this process, percentiles within 4.5%, today in UTC",
  ].filter((fact) => fact !== null);
  place.textContent = facts.join(" · ");
}
