// Questions in a dialog: it takes the focus, Escape leaves it, and the focus goes back where it was.

import { button, field, h } from "./dom.js";

/** Ask whether something shall be done. Return whether the answer was yes. */
export function confirm({ title, text, yes, isDangerous = true }) {
  return ask(title, [h("p", null, text)], yes, isDangerous ? "danger" : "primary").then((answer) => answer !== null);
}

/** Ask for a token. Return it; null if nobody gave one. */
export async function askToken() {
  const input = h("input", { type: "password", autocomplete: "off", spellcheck: "false" });
  const words = h("p", null, "The page keeps it until it is closed, and sends it to this node only.");
  const answer = await ask("A token of this node", [words, field("Token", input)], "Use it", "primary");
  return answer === null ? null : input.value.trim();
}

function ask(title, content, yes, kind) {
  return new Promise((resolve) => {
    const close = (value) => () => dialog.close(value);
    const form = h(
      "form",
      { method: "dialog" },
      h("h2", { id: "dialog-title" }, title),
      content,
      h("div", { class: "actions" }, button("Leave it", close(""), { autofocus: kind === "danger" }), h("button", { type: "submit", value: "yes", class: kind }, yes)),
    );
    const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, form);
    // Who goes back has left what was asked about.
    const leave = () => dialog.close("");
    window.addEventListener("hashchange", leave);
    dialog.addEventListener("close", () => {
      window.removeEventListener("hashchange", leave);
      dialog.remove();
      resolve(dialog.returnValue === "yes" ? true : null);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
