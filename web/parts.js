/* Small parts that the page is put together from. */

export function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

export function button(label, onClick) {
  const made = element("button", "quiet", label);
  made.type = "button";
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
