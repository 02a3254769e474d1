// The figures and the panels below the charts.

import { age, cost, count, draw, duration, make, plural, share, timeOf, usd, words } from "./text.js";

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
      make(
        "div",
        { class: mood || null },
        make("dt", {}, title),
        make("dd", { class: "value" }, value),
        make("dd", {}, note),
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
    panel("Outcomes", ranked(Object.entries(span.codes).map(([c, n]) => [words(c), n, mood(c)]))),
    panel("Providers", ...data.circuits.map((circuit) => provider(circuit, span.faults))),
    panel("Callers", spending(span.callers, "caller")),
    panel("Models", spending(span.models, "model")),
    panel("Limits", ...limits(data, span.limits)),
    panel("Routes", ranked(Object.entries(span.routes))),
    panel("Redacted from prompts", ranked(entriesInWords(span.redactions))),
  ]);
}

function panel(title, ...content) {
  return make("section", {}, make("h2", {}, title), ...content);
}

const entriesInWords = (counts) => Object.entries(counts).map(([name, n]) => [words(name), n]);

/** Which colour an outcome has; the exact status is in the list of calls. */
function mood(code) {
  const failed = ["provider_", "internal", "circuit_open", "draining", "overloaded", "deadline_"];
  if (code === "completed") return "completed";
  return failed.some((start) => code.startsWith(start)) ? "server-errors" : "client-errors";
}

/** Names with their counts and bars, `[name, count, class]`. */
function ranked(rows, none = "none") {
  if (!rows.length) return make("p", { class: "quiet" }, none);
  const most = Math.max(...rows.map(([, n]) => n));
  const items = rows.map(([name, n, kind = "plain"]) =>
    make(
      "li",
      {},
      make("span", { class: "name" }, name),
      make("span", { class: "number" }, count(n)),
      meter(n / most, kind),
    ),
  );
  return make("ul", { class: "ranked" }, ...items);
}

function meter(part, kind) {
  const width = `${Math.max(0.5, 100 * Math.min(1, part))}%`;
  const bar = draw("rect", { class: kind, width, height: "100%", rx: 2 });
  return draw("svg", { class: "meter", "aria-hidden": "true" }, bar);
}

function provider({ provider: name, state, openForS }, faults) {
  const text = state === "open" ? `open, probe in ${age(openForS)}` : STATES[state];
  const reasons = faults.filter((fault) => fault.provider === name);
  return make(
    "div",
    { class: "provider" },
    make("h3", {}, name, " ", make("span", { class: `badge ${state}` }, `circuit ${text}`)),
    ranked(
      reasons.map(({ reason, attempts }) => [words(reason), attempts, "server-errors"]),
      "no failed attempts",
    ),
  );
}

function spending(rows, what) {
  if (!rows.length) return make("p", { class: "quiet" }, "none");
  const head = [what, "calls", "failed", "tokens", "cost"].map((title, column) =>
    make("th", { scope: "col", class: column ? "number" : null }, title),
  );
  const body = rows.map((row) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, row.name ?? make("em", {}, "all others")),
      make("td", { class: "number" }, count(row.calls)),
      make("td", { class: `number ${row.serverErrors ? "alarm" : ""}` }, count(row.serverErrors)),
      make("td", { class: "number" }, count(row.promptTokens + row.answerTokens)),
      make("td", { class: "number" }, cost(row.usd, row.unpriced)),
    ),
  );
  return make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body));
}

function limits(data, refused) {
  const used = data.limits.map(({ rule, used: amount, maximum }) => {
    const shown = rule.includes("usd") ? usd : (number) => count(Math.floor(number));
    const part = amount / maximum;
    return make(
      "li",
      {},
      make("span", { class: "name" }, limitName(rule)),
      make("span", { class: "number" }, `${shown(amount)} of ${shown(maximum)}`),
      meter(part, part > 0.8 ? "server-errors" : "plain"),
    );
  });
  const none =
    data.store === "memory" ? "No limit of the whole server is set." : "Counted in Redis by all.";
  return [
    used.length
      ? make("ul", { class: "ranked" }, ...used)
      : make("p", { class: "quiet" }, none),
    make("h3", {}, "Calls refused"),
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
