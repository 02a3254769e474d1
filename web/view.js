/* One question and its answer on the page. It shows what it is told and decides nothing. */

import { GrowingText } from "./markdown.js";
import { button, copyButton, element } from "./parts.js";
import { countdown } from "./words.js";

/** A turn of the conversation, at the end of the list. */
export class TurnView {
  #answer = element("article", { class: "answer" });
  #text = element("div", { class: "text" });
  #note = element("div", { class: "note" });
  #facts = element("ul", { class: "facts" });
  #copy = copyButton("Copy", this.#text, () => this.#source);
  #retry;
  #source = "";
  #growing = null;
  #frame = 0;
  #notBefore = 0;
  #countdown = 0;

  constructor(list, question, onRetry) {
    const asked = element("article", { class: "question" });
    const words = element("p", {}, question);
    words.dir = "auto";
    asked.append(element("h2", { class: "unseen" }, "You asked"), words);
    this.#retry = button("Retry", () => {
      if (this.#retry.ariaDisabled !== "true") onRetry();
    });
    const actions = element("div", { class: "actions" });
    actions.append(this.#copy, this.#retry);
    const foot = element("footer");
    foot.append(this.#facts, actions);
    this.#answer.append(element("h2", { class: "unseen" }, "Answer"), this.#text, this.#note, foot);
    const turn = element("li", { class: "turn" });
    turn.append(asked, this.#answer);
    list.append(turn);
  }

  /** Begin, or begin anew: nothing is there yet, but something is coming. */
  wait() {
    this.withdrawRetry();
    this.#source = "";
    this.#growing = null;
    this.#notBefore = 0;
    const dots = element("p", { class: "dots" });
    dots.append(element("span"), element("span"), element("span"));
    this.#text.replaceChildren(dots);
    this.#note.replaceChildren();
    this.#facts.replaceChildren();
    this.#copy.hidden = true;
    this.#answer.dataset.state = "answering";
    this.#answer.ariaBusy = "true";
  }

  /** Show the answer so far with one of the next frames, then call `onShown`. */
  grow(source, onShown) {
    this.#source = source;
    if (performance.now() < this.#notBefore) return;
    this.#frame ||= requestAnimationFrame(() => {
      const began = performance.now();
      this.#draw();
      onShown();
      // What is slow to draw is drawn less often, so that the page stays quick.
      this.#notBefore = performance.now() + 4 * (performance.now() - began);
    });
  }

  #draw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    if (!this.#growing) {
      this.#text.replaceChildren();
      this.#growing = new GrowingText(this.#text);
    }
    this.#growing.show(this.#source);
  }

  /**
   * Nothing more is coming.
   *
   * @param {"complete" | "stopped" | "failed"} state
   * @param {string[]} facts what is to be known of it
   */
  end(state, facts) {
    this.#draw();
    this.#answer.dataset.state = state;
    this.#answer.ariaBusy = "false";
    this.#copy.hidden = !this.#source;
    this.#facts.replaceChildren(...facts.map((fact) => element("li", {}, fact)));
  }

  /** Say why this is no whole answer. */
  explain(words, requestId) {
    this.#note.append(element("p", {}, words));
    if (requestId) this.#note.append(element("p", { class: "request-id" }, `Request ${requestId}`));
  }

  /** Let it be asked again after so many seconds; `onReady` is called if there was a wait. */
  offerRetry(waitS, onReady) {
    const ready = Date.now() + waitS * 1000;
    const tick = () => {
      const left = Math.ceil((ready - Date.now()) / 1000);
      // Not `disabled`: it keeps the focus while it counts.
      this.#retry.ariaDisabled = String(left > 0);
      this.#retry.textContent = left > 0 ? `Retry in ${countdown(left)}` : "Retry";
      if (left > 0 || !waitS) return;
      clearInterval(this.#countdown);
      onReady();
    };
    this.#retry.hidden = false;
    if (waitS) this.#countdown = setInterval(tick, 250);
    tick();
  }

  withdrawRetry() {
    clearInterval(this.#countdown);
    this.#retry.hidden = true;
  }
}
