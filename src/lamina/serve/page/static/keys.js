// Keyboard shortcuts: single keys, off while something is typed.

import { h } from "./dom.js";

/** Listen for `shortcuts`, each `{key, what, run}`; `?` lists them. */
export function listenForKeys(shortcuts) {
  const help = () => showHelp(shortcuts);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.key !== "Escape" && event.target.closest("input:not([type=checkbox]):not([type=range]), textarea, select")) return;
    const found = event.key === "?" ? { run: help } : shortcuts.find((shortcut) => shortcut.key === event.key);
    if (!found) return;
    event.preventDefault();
    found.run();
  });
  return help;
}

function showHelp(shortcuts) {
  const dialog = h("dialog", { "aria-label": "Keyboard shortcuts", onclose: () => dialog.remove(), onclick: (event) => { if (event.target === dialog) dialog.close(); } },
    h("h2", {}, "Keyboard shortcuts"),
    h("dl", {}, [...shortcuts, { key: "Enter", what: "send; Shift+Enter starts a new line" }, { key: "Ctrl+Enter", what: "save a correction" }, { key: "?", what: "this list" }]
      .flatMap(({ key, what }) => [h("dt", {}, h("kbd", {}, key === "Escape" ? "Esc" : key)), h("dd", {}, what)])),
    h("form", { method: "dialog" }, h("button", { class: "main" }, "Close")));
  document.body.append(dialog);
  dialog.showModal();
}
