// One answer: written as it streams, corrected in place, copied, asked for again.

import { post } from "./api.js";
import { complete } from "./completion.js";
import { complain, h, toast } from "./dom.js";

/**
 * An answer of `model` to `prompt` (messages); `sum` is what `model` was seen to hold, so that it is told when other
 * layers answered: some of them, picked by the branch's router, or more, if the branch has grown since. `onretry` adds a
 * button that asks again.
 */
export class Answer {
  constructor({ model, sum, prompt, settings, onretry = null }) {
    this.model = model;
    this.sum = sum;
    this.prompt = settings.system ? [{ role: "system", content: settings.system }, ...prompt] : prompt;
    this.settings = { ...settings, system: "" };
    this.stack = null;
    this.said = "";
    this.text = "";
    this.stopper = new AbortController();
    this.body = h("div", { class: "text" });
    this.by = h("span", { hidden: true });
    this.facts = h("span", {});
    this.retry = onretry && h("button", { type: "button", class: "quiet", onclick: onretry }, "Ask again");
    this.acts = h("span", { class: "acts", hidden: true },
      h("button", { type: "button", class: "quiet correct", onclick: () => this.edit(), title: "Say what the answer should have been (e)" }, "Correct"),
      h("button", { type: "button", class: "quiet", onclick: () => this.#copy() }, "Copy"), this.retry);
    this.element = h("article", { class: "answer busy", "aria-busy": "true", "aria-label": `answer of ${model}` },
      this.body, h("div", { class: "meta" }, h("code", {}, model), this.by, this.facts, this.acts));
  }

  /** Write the answer; return whether there is one. An answer that was stopped counts with what was said. */
  async run() {
    const started = performance.now();
    let first = null;
    try {
      for await (const { stack, text, tokens, finish } of complete(this.model, this.prompt, this.settings, this.stopper.signal)) {
        if (stack !== undefined) {
          this.stack = stack;
          this.by.hidden = stack === null || stack === this.sum;
          this.by.textContent = `answered by ${stack}`;
        } else if (text) {
          first ??= performance.now();
          this.said += text;
          this.body.textContent = this.said;
          this.element.dispatchEvent(new Event("grown", { bubbles: true }));
        } else {
          this.facts.textContent = speed(tokens, finish, started, first);
        }
      }
    } catch (error) {
      if (error.name !== "AbortError") return this.#fail(error);
      this.facts.textContent = "stopped";
    }
    this.#settle(this.said.trim());
    return this.text !== "";
  }

  /** What it was before any correction, and whose, as votes and corrections keep it. */
  get record() {
    return { model: this.model, stack: this.stack, text: this.said.trim() };
  }

  stop() {
    this.stopper.abort();
  }

  /** Let the person write what the answer should have been, in its place. */
  edit() {
    if (this.acts.hidden || this.acts.querySelector(".correct").hidden) return;
    const area = h("textarea", { "aria-label": "what the answer should have been", rows: Math.min(14, this.text.split("\n").length + 2) });
    area.value = this.text;
    const done = () => {
      form.replaceWith(this.body);
      this.acts.hidden = false;
      this.acts.querySelector(".correct").focus();
    };
    const save = async () => {
      if (await this.#save(area.value.trim())) done();
    };
    const form = h("form", { onsubmit: (event) => { event.preventDefault(); save(); }, onkeydown: (event) => {
      if (event.key === "Escape") { event.stopPropagation(); done(); }
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); save(); }
    } }, area, h("div", { class: "row" },
      h("button", { class: "main" }, "Save correction"), h("button", { type: "button", onclick: done }, "Cancel"),
      h("span", { class: "small dim" }, "Ctrl+Enter saves, Esc leaves it")));
    this.acts.hidden = true;
    this.body.replaceWith(form);
    area.focus();
  }

  async #save(wanted) {
    if (!wanted) return complain(new Error("A correction needs some text."));
    try {
      const { new: isNew } = await post("/lamina/corrections", {
        prompt: this.prompt, said: this.record, wanted,
      });
      this.text = wanted;
      this.body.textContent = wanted;
      this.facts.textContent = "corrected";
      toast(isNew ? "Saved to corrections.jsonl" : "It is in corrections.jsonl already");
      return true;
    } catch (error) {
      complain(error);
      return false;
    }
  }

  #settle(text) {
    this.text = text;
    this.body.textContent = text;
    this.element.classList.remove("busy");
    this.element.setAttribute("aria-busy", "false");
    this.acts.hidden = false;
    if (text === "") this.facts.textContent = ["an empty answer", this.facts.textContent].filter(Boolean).join(" · ");
  }

  #fail(error) {
    this.#settle("");
    this.acts.querySelector(".correct").hidden = true; // nothing was said
    this.element.classList.add("failed");
    this.body.textContent = [error.message, error.hint].filter(Boolean).join(" ");
    this.facts.textContent = "";
    return false;
  }

  async #copy() {
    await navigator.clipboard.writeText(this.text).then(() => toast("Copied"), complain);
  }
}

function speed(tokens, finish, started, first) {
  const facts = [];
  if (tokens !== null) facts.push(tokens === 1 ? "1 token" : `${tokens} tokens`);
  const seconds = first === null ? 0 : (performance.now() - first) / 1000;
  if (tokens > 1 && seconds > 0) facts.push(`${Math.round((tokens - 1) / seconds)}/s`);
  if (first !== null) facts.push(`first after ${Math.round(first - started)} ms`);
  if (finish === "length") facts.push("cut at the longest answer");
  return facts.join(" · ");
}
