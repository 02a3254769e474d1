/* The chat: what was said, and what happens when. */

import { Failure, ask, fetchSession } from "./api.js";
import { announce } from "./parts.js";
import { TurnView } from "./view.js";
import { countdown, ending, inWords } from "./words.js";

const MAX_HISTORY = 200; // messages, as schemas/chat.request.json has it
const KEY = "sluice.key";
const KEPT = "kept in this tab only";
const SUBSTITUTE =
  "This is a recorded answer to another prompt. Start Sluice with OPENAI_API_KEY for a real one.";
const REFUSED = "This key is not accepted.";

const byId = (id) => document.getElementById(id);
const [form, question, turnList] = ["composer", "question", "turns"].map(byId);
const [send, stop, keyInput, model, scenario] = ["send", "stop", "key", "model", "scenario"].map(byId);

/** Every turn: {question, view, text, state}. */
let turns = [];
let session = { auth: "none", models: [], scenarios: [], mode: "live", xsrfToken: "" };
let abort = null; // of the answer that is coming
let atEnd = true; // whether the reader is there

// What is asked

async function submit(text) {
  await sessionLoaded;
  if (abort || !text.trim()) return question.focus();
  if (needsKey() && !keyInput.value) return askForKey("Enter your key first.");
  turns.at(-1)?.view.withdrawRetry();
  const turn = { question: text.trim(), text: "", state: "answering" };
  turn.view = new TurnView(turnList, turn.question, () => answer(turn));
  turns.push(turn);
  if (question.value === text) question.value = "";
  fit();
  showConversation();
  answer(turn);
}

async function answer(turn) {
  Object.assign(turn, { text: "", state: "answering" });
  turn.view.wait();
  const mine = new AbortController();
  answering(mine);
  announce("Answering.");
  scrollToEnd();
  let failure = null;
  let facts = {};
  try {
    for await (const event of ask(request(turn), requestOptions(mine.signal))) {
      if (event.type === "text-delta") {
        turn.text += event.delta;
        turn.view.grow(turn.text, follow);
      } else if (event.messageMetadata) {
        facts = { ...facts, finishReason: event.finishReason, ...event.messageMetadata };
      }
    }
    turn.state = "complete";
  } catch (fault) {
    if (!mine.signal.aborted) failure = asFailure(fault);
    turn.state = failure ? "failed" : "stopped";
  }
  if (!turns.includes(turn)) return; // a new chat was begun
  answering(null);
  conclude(turn, failure, facts);
}

function asFailure(fault) {
  if (fault instanceof Failure) return fault;
  reportError(fault);
  return new Failure("This page made a mistake.");
}

function request(turn) {
  const history = turns
    .slice(0, turns.indexOf(turn))
    .filter((earlier) => earlier.text.trim())
    .flatMap((earlier) => [
      { role: "user", content: wellFormed(earlier.question) },
      { role: "assistant", content: wellFormed(earlier.text) },
    ])
    .slice(-MAX_HISTORY);
  const asked = { userMessage: wellFormed(turn.question) };
  if (history.length) asked.messages = history;
  if (model.value) asked.model = model.value;
  return asked;
}

/** Without what JSON in UTF-8 cannot carry, or the server refuses. */
function wellFormed(text) {
  return text.replaceAll("\0", "").toWellFormed();
}

function requestOptions(signal) {
  const chosen = { scenario: scenario.value, key: keyInput.value, xsrfToken: session.xsrfToken };
  scenario.value = ""; // a failure is played once: what follows may recover from it
  return { ...chosen, signal };
}

// How it ended

function conclude(turn, failure, facts) {
  turn.view.end(turn.state, turn.state === "complete" ? inWords(facts) : []);
  if (facts.recording === "substitute") turn.view.explain(SUBSTITUTE);
  const words = ending(turn, failure, turn === turns[0]);
  if (turn.state !== "complete") turn.view.explain(words, failure?.requestId);
  if (!failure || failure.retryable || failure.code === "unauthenticated") {
    turn.view.offerRetry(failure?.waitS ?? 0, () => announce("You can retry now."));
  } else {
    question.value ||= turn.question;
    fit();
  }
  follow();
  if (failure?.code === "unauthenticated") askForKey(REFUSED);
  const wait = failure?.waitS ? ` You can retry in ${countdown(failure.waitS)}.` : "";
  announce(words + wait);
}

// The page around it

function answering(controller) {
  abort = controller;
  stop.hidden = !controller;
  send.hidden = Boolean(controller);
  const { activeElement, body } = document;
  const isNowhere = activeElement === body && getSelection().isCollapsed; // none is marking text
  if (isNowhere || activeElement.closest("[hidden]")) focusQuestion();
}

/** Back to where one types; on a touch screen that would only call up its keyboard. */
function focusQuestion() {
  if (!matchMedia("(pointer: coarse)").matches) question.focus();
}

function newChat() {
  abort?.abort();
  for (const turn of turns) turn.view.withdrawRetry();
  turns = [];
  turnList.replaceChildren();
  answering(null);
  showConversation();
  announce("New chat.");
  focusQuestion();
}

function showConversation() {
  byId("welcome").hidden = turns.length > 0;
}

/** Keep the end in sight, for a reader who was there. */
function follow() {
  if (atEnd) scrollToEnd();
}

function scrollToEnd() {
  scrollTo(0, document.documentElement.scrollHeight);
}

function noteScroll() {
  const { scrollTop, clientHeight, scrollHeight } = document.documentElement;
  atEnd = scrollTop + clientHeight >= scrollHeight - 48;
}

/** Let the text area grow where CSS cannot. */
function fit() {
  if (CSS.supports("field-sizing", "content")) return;
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight}px`;
}

function needsKey() {
  return session.auth === "keys" || session.auth === "jwt";
}

function askForKey(words) {
  byId("key-row").hidden = false;
  byId("key-note").textContent = words;
  announce(words);
  keyInput.focus();
  keyInput.select();
}

// What this server offers

async function loadSession() {
  try {
    session = await fetchSession("");
  } catch (fault) {
    banner(`${asFailure(fault).message} Load this page again in a moment.`);
    return;
  }
  if (session.mode === "replay") {
    banner("Replaying recorded answers. Start Sluice with OPENAI_API_KEY to ask a real model.");
  }
  if (session.mode === "record") banner("Recording: questions and answers are written to a cassette.");
  byId("key-row").hidden = !needsKey();
  byId("key-note").textContent = KEPT;
  offerModels(session.models);
  for (const name of session.scenarios) scenario.append(new Option(name.replaceAll("_", " "), name));
  byId("scenario-choice").hidden = !session.scenarios.length;
  await refreshModels();
}

/** Learn which models this key may ask. Not those of a token: it may be good for one use. */
async function refreshModels() {
  if (session.auth !== "keys" || !keyInput.value) return;
  try {
    offerModels((await fetchSession(keyInput.value)).models);
  } catch (fault) {
    const { code, message } = asFailure(fault);
    if (code === "unauthenticated") askForKey(REFUSED);
    else banner(message);
  }
}

function offerModels(names) {
  model.replaceChildren(...names.map((name) => new Option(name)));
  byId("model-choice").hidden = names.length < 2;
}

function banner(words) {
  byId("banner").textContent = words;
  byId("banner").hidden = false;
}

// Events

form.addEventListener("submit", (event) => {
  event.preventDefault();
  submit(question.value);
});
question.addEventListener("keydown", (event) => {
  // 229: Safari ends a composition before it tells of the Enter that ended it.
  const composing = event.isComposing || event.keyCode === 229;
  if (event.key !== "Enter" || event.shiftKey || composing) return;
  event.preventDefault();
  submit(question.value);
});
question.addEventListener("input", fit);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing) abort?.abort();
});
stop.addEventListener("click", () => abort?.abort());
byId("new").addEventListener("click", newChat);
byId("welcome").addEventListener("click", (event) => {
  const suggestion = event.target.closest(".suggestion");
  if (suggestion) submit(suggestion.textContent);
});
keyInput.value = sessionStorage.getItem(KEY) ?? "";
keyInput.addEventListener("change", () => {
  sessionStorage.setItem(KEY, keyInput.value);
  byId("key-note").textContent = KEPT;
  refreshModels();
});
addEventListener("scroll", noteScroll, { passive: true });

const sessionLoaded = loadSession();
