// Asks the server how it is every other second, while somebody looks, and shows it.

import { Calls } from "./calls.js";
import { CallsChart, LatencyChart, slotsOf } from "./charts.js";
import { showFigures, showPanels, showServer } from "./panels.js";
import { timeOf } from "./text.js";

const EVERY_MS = 2000;
const PATIENCE_MS = 10_000;
const TOKEN = "sluice.ops.token";

const byId = (id) => document.getElementById(id);
const [state, door, board, controls, pause] = ["state", "door", "board", "controls", "pause"].map(byId);
const charts = [new CallsChart(), new LatencyChart()];
const calls = new Calls(byId("calls"), byId("no-calls"));

let data = null;
let timer = null;
let asking = false;

byId("charts").append(...charts.map((chart) => chart.element));

async function ask() {
  clearTimeout(timer);
  if (asking || document.hidden || isPaused()) return;
  asking = true;
  const token = sessionStorage.getItem(TOKEN);
  let [status, answer] = [0, null];
  try {
    const reply = await fetch(`/api/ops?after=${data?.lastCall ?? 0}`, {
      headers: token ? { Authorization: `Bearer ${token}` } : {},
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    [status, answer] = [reply.status, await reply.json()];
  } catch {
    // Nobody there, or something else than this server; it is said below.
  }
  asking = false;
  if (status === 401) return lock(token !== null);
  timer = setTimeout(ask, EVERY_MS);
  if (status === 200) take(answer);
  else say(`${answer?.error ?? "No answer"}${data ? ` since ${timeOf(data.now)}` : ""}`, true);
}

function take(news) {
  if (data && news.startedAt !== data.startedAt) {
    // Another process: it counts its calls anew.
    data = null;
    calls.clear();
    ask();
    return;
  }
  data = news;
  calls.add(data.calls, data.maxCalls);
  show();
  if (!isPaused()) say(data.draining ? "Draining" : "Live", data.draining);
  for (const part of [board, controls]) part.hidden = false;
}

function show() {
  const span = document.querySelector("input[name=span]:checked").value;
  const columns = data.chartSlots[span];
  const slots = slotsOf(data, columns);
  showFigures(byId("figures"), data, span);
  for (const chart of charts) chart.show(slots, columns, data);
  showPanels(byId("panels"), data, span);
  showServer(byId("server"), data);
}

/** Ask for the token; `wrong`: the one we have is not it. */
function lock(wrong) {
  sessionStorage.removeItem(TOKEN);
  data = null;
  calls.clear();
  byId("server").replaceChildren();
  for (const part of [board, controls]) part.hidden = true;
  door.hidden = false;
  byId("token-fault").textContent = wrong ? "That is not the token." : "";
  say("Locked", false);
  byId("token").focus();
}

function say(text, bad) {
  state.classList.toggle("bad", bad);
  state.classList.toggle("live", text === "Live");
  if (state.textContent !== text) state.textContent = text;
}

const isPaused = () => pause.getAttribute("aria-pressed") === "true";

pause.addEventListener("click", () => {
  pause.setAttribute("aria-pressed", String(!isPaused()));
  pause.textContent = isPaused() ? "Resume" : "Pause";
  if (isPaused()) say(`Paused at ${timeOf(data.now)}`, false);
  else ask();
});

door.addEventListener("submit", (event) => {
  event.preventDefault();
  const token = byId("token").value.trim();
  byId("token").value = "";
  if (!/^[!-~]+$/.test(token)) return lock(true); // no header could carry it
  sessionStorage.setItem(TOKEN, token);
  door.hidden = true;
  ask();
});

byId("span").addEventListener("change", () => data && show());
document.addEventListener("visibilitychange", ask);
ask();
