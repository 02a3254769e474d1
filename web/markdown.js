/* A model's answer as DOM.

   Rules of this module:
   - The text is hostile. HTML in it is text (`html` and `tag` below never match), and whatever
     marked makes of the rest goes through DOMPurify's allow-list: no images, forms, styles,
     frames, ids or classes; links to http and https only.
   - While an answer grows, only the blocks that changed are made anew. */

import DOMPurify from "./vendor/purify.js";
import { element, copyButton } from "./parts.js";
import { Marked } from "./vendor/marked.js";

const TAGS =
  "a p br strong em del code pre ul ol li blockquote h3 h4 h5 h6 hr " +
  "table thead tbody tr th td #text";

const PURIFY = {
  ALLOWED_TAGS: TAGS.split(" "),
  ALLOWED_ATTR: ["href", "start", "align"],
  ALLOWED_URI_REGEXP: /^https?:\/\//i,
  ADD_URI_SAFE_ATTR: ["start", "align"], // every other value is held against the rule above
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

const marked = new Marked({
  gfm: true,
  tokenizer: { html: () => undefined, tag: () => undefined },
  renderer: {
    // The page has h1, each message h2, and many answers begin with a second level.
    heading({ tokens, depth }) {
      const level = Math.min(Math.max(depth + 1, 3), 6);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>\n`;
    },
    // A picture would tell its server who reads; its name as a link does so only if asked to.
    image({ href, text }) {
      return this.link({ href, tokens: [{ type: "text", raw: text, text: text || href }] });
    },
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

/** An answer which is shown as it comes, in the element `root`. */
export class GrowingText {
  #root;
  #raws = [];

  constructor(root) {
    this.#root = root;
  }

  /** Show this text, of which the last one was mostly the beginning. */
  show(text) {
    try {
      this.#showBlocks(marked.lexer(text).filter((token) => token.type !== "space"));
    } catch (fault) {
      if (!(fault instanceof RangeError)) throw fault;
      // Quotes in quotes, deeper than the stack: then it stays as it is written.
      this.#root.replaceChildren(element("p", { class: "plain" }, text));
      this.#raws = [];
    }
  }

  #showBlocks(blocks) {
    const changed = blocks.findIndex((block, at) => block.raw !== this.#raws[at]);
    const kept = changed < 0 ? blocks.length : changed;
    while (this.#root.childElementCount > kept) this.#root.lastElementChild.remove();
    for (const block of blocks.slice(kept)) this.#root.append(render(block));
    this.#raws = blocks.map((block) => block.raw);
  }
}

function render(token) {
  const block = element("div", { class: "block" });
  block.dir = "auto";
  block.append(DOMPurify.sanitize(marked.parser([token]), PURIFY));
  for (const link of block.querySelectorAll("a[href]")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer";
  }
  for (const code of block.querySelectorAll("pre")) frame(code, token.lang);
  for (const table of block.querySelectorAll("table")) wrap(table, "scroller");
  return block;
}

/** A box around a block of code, with its language and a button that copies it. */
function frame(code, language) {
  const head = element("div", { class: "code-head" });
  head.append(
    element("span", {}, language?.match(/^[\w+#.-]{1,20}/)?.[0]),
    copyButton("Copy code", code, () => code.textContent),
  );
  code.tabIndex = 0; // it scrolls, so the keyboard must reach it
  wrap(code, "code").prepend(head);
}

function wrap(inner, className) {
  const box = element("div", { class: className });
  inner.replaceWith(box);
  box.append(inner);
  return box;
}
