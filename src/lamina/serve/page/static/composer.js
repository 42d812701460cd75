// Where questions are typed: Enter sends, Shift+Enter starts a line, Esc stops the answer.

import { h } from "./dom.js";

export class Composer {
  constructor({ label, send, stop, extra = null }) {
    this.area = h("textarea", { rows: 1, placeholder: label, "aria-label": label, oninput: () => this.#fit(), onkeydown: (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); this.#submit(); }
      if (event.key === "Escape" && this.busy) { event.stopPropagation(); stop(); }
    } });
    this.button = h("button", { class: "main" });
    this.send = send;
    this.stop = stop;
    this.note = h("span", { class: "small dim" }, "Enter sends, Shift+Enter starts a new line");
    this.element = h("div", { class: "composer" },
      h("form", { onsubmit: (event) => { event.preventDefault(); this.busy ? stop() : this.#submit(); } },
        this.area, h("div", { class: "row spread" }, this.note, h("span", { class: "row" }, extra, this.button))));
    this.setBusy(false);
  }

  setBusy(busy) {
    this.busy = busy;
    this.button.replaceChildren(busy ? "Stop" : "Send", h("kbd", {}, busy ? "Esc" : "⏎"));
    this.button.classList.toggle("main", !busy);
  }

  #submit() {
    const text = this.area.value.trim();
    if (!text || this.busy) return;
    this.area.value = "";
    this.#fit();
    this.send(text);
  }

  #fit() {
    this.area.style.height = "auto";
    this.area.style.height = `${this.area.scrollHeight}px`;
  }
}
