/* Small parts that the pages are put together from. What the server says is only ever text. */

const SVG = "http://www.w3.org/2000/svg";

/** An element with these attributes; `null` and `false` leave one out, strings become text;
    children that are `null` or `undefined` are left out. */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

export function button(label, onClick) {
  const made = element("button", { type: "button", class: "quiet" }, label);
  made.addEventListener("click", onClick);
  return made;
}

/** A button that copies `text()`, which `shown` shows. */
export function copyButton(label, shown, text) {
  const made = button(label, async () => {
    const said = (await copied(text(), shown)) ? "Copied" : "Could not copy";
    made.textContent = said;
    announce(said);
    setTimeout(() => (made.textContent = label), 1500);
  });
  return made;
}

async function copied(text, shown) {
  // Pages that came by plain http from elsewhere have no clipboard of their own.
  if (!navigator.clipboard) {
    getSelection().selectAllChildren(shown);
    return document.execCommand("copy");
  }
  return navigator.clipboard.writeText(text).then(
    () => true,
    () => false,
  );
}

/** Tell those who do not see the page. */
export function announce(text) {
  document.getElementById("status").replaceChildren(text);
}
