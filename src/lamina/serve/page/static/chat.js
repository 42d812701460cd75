// A conversation with one stack.

import { Answer } from "./answer.js";
import { Composer } from "./composer.js";
import { h } from "./dom.js";
import { Picker } from "./picker.js";
import { settings, settingsForm } from "./settings.js";
import { onShelf } from "./shelf.js";

const WIDE = matchMedia("(min-width: 1001px)"); // where the panel stands beside the conversation

export class ChatView {
  constructor() {
    this.turns = []; // questions, each with its answer once there is one
    this.picker = new Picker({ label: "Stack", onchange: (model) => this.#named(model) });
    this.composer = new Composer({
      label: "Ask something", send: (text) => this.ask(text), stop: () => this.stop(),
      extra: h("button", { type: "button", class: "quiet", title: "New conversation (n)", onclick: () => this.restart() }, "New"),
    });
    this.title = h("h1", { class: "unseen" }, "Chat");
    this.empty = h("div", { class: "empty" }, h("h2", {}, "Talk to a stack"),
      h("p", {}, "Pick a stack, switch its layers on and off, weigh them. Every answer can be corrected in place; corrections become data that `lamina update corrections.jsonl` trains on."),
      h("p", { class: "small" }, "Press ", h("kbd", {}, "?"), " for keyboard shortcuts."));
    this.log = h("div", { class: "log", role: "log", "aria-label": "conversation", tabindex: "0" }, this.empty);
    this.log.addEventListener("grown", () => this.#follow());
    this.fold = h("details", { class: "fold", open: WIDE.matches },
      h("summary", {}, "Stack: ", this.shown = h("code", {})), this.picker.element);
    this.element = h("section", { class: "view chat", "aria-label": "Chat" },
      h("div", { class: "talk" }, this.title, this.log, this.composer.element),
      h("aside", { class: "panel", "aria-label": "Stack" }, this.fold, settingsForm()));
    WIDE.addEventListener("change", () => { this.fold.open = WIDE.matches; });
    onShelf((shelf) => this.picker.setShelf(shelf));
  }

  focus() {
    this.composer.area.focus({ preventScroll: true });
  }

  async ask(text) {
    const asked = h("div", { class: "turn user" }, h("div", {}, text));
    this.empty.remove();
    this.log.append(asked);
    this.turns.push({ question: text, answer: null });
    await this.#answer();
  }

  /** Answer the last question. What was never answered is not part of the conversation that the model reads. */
  async #answer() {
    const turn = this.turns.at(-1);
    const before = this.turns.slice(0, -1).filter((each) => each.answer?.text);
    const prompt = [...before.flatMap((each) => [{ role: "user", content: each.question }, { role: "assistant", content: each.answer.text }]),
      { role: "user", content: turn.question }];
    const answer = new Answer({ model: this.picker.model, sum: this.picker.sumNow, prompt, settings, onretry: () => this.#again(answer) });
    this.log.append(answer.element);
    this.#follow(true);
    this.running = answer;
    this.composer.setBusy(true);
    turn.answer = answer;
    await answer.run();
    if (this.running !== answer) return;
    this.running = null;
    this.composer.setBusy(false);
    this.#follow();
  }

  /** Ask the question of `answer` again, of whatever stack is picked now; what came after it goes. */
  #again(answer) {
    if (this.running) return;
    const place = this.turns.findIndex((turn) => turn.answer === answer);
    this.turns.length = place + 1;
    while (answer.element.nextSibling) answer.element.nextSibling.remove();
    answer.element.remove();
    this.#answer();
  }

  stop() {
    this.running?.stop();
  }

  correct() {
    this.turns.findLast((turn) => turn.answer)?.answer.edit();
  }

  restart() {
    this.stop();
    this.running = null;
    this.composer.setBusy(false);
    this.turns = [];
    this.log.replaceChildren(this.empty);
    this.composer.area.focus();
  }

  #named(model) {
    this.shown.textContent = model;
    this.composer.area.placeholder = `Ask ${model}`;
  }

  #follow(always = false) {
    const box = WIDE.matches ? this.log : document.scrollingElement;
    if (always || box.scrollHeight - box.scrollTop - box.clientHeight < 160) box.scrollTop = box.scrollHeight;
  }
}
