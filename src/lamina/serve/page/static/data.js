// From a file to a layer: drop it, see what lamina found, train, read the verdict, talk to the result.

import { get, post, upload } from "./api.js";
import { complain, h } from "./dom.js";
import { TrainingCard } from "./training.js";
import { onTrainings } from "./trainings.js";

const PIECE_BYTES = 1024 * 1024;

export class DataView {
  /** `talk` is called as `TrainingCard` calls it. */
  constructor(talk) {
    this.talk = talk;
    this.cards = new Map();
    this.input = h("input", { type: "file", hidden: true, accept: ".jsonl,.ndjson,.json,.csv,.tsv,.parquet,.txt,.md", onchange: () => this.#take(this.input.files) });
    this.sent = h("progress", { max: 1, hidden: true, "aria-label": "upload" });
    this.drop = h("div", { class: "drop" }, h("b", {}, "Drop a data file here"),
      h("p", { class: "small dim" }, "JSONL, JSON, CSV, TSV, Parquet or text: messages, ShareGPT, Alpaca, prompt/completion. It stays in this project’s folder."),
      h("button", { type: "button", onclick: () => this.input.click() }, "Choose a file"), this.input, this.sent);
    this.list = h("ul", { class: "stored" });
    this.found = h("div", {});
    this.running = h("div", { class: "runs" });
    this.element = h("section", { class: "view", "aria-label": "Train" },
      h("header", {}, h("h1", {}, "Train"), h("p", {}, "A file becomes a layer on top of the current branch, if it makes nothing worse.")),
      this.drop, this.found, this.running,
      this.files = h("details", { class: "card", open: true }, h("summary", {}, "Data files of this project"), this.list));
    this.#listen();
    onTrainings((trainings) => this.#follow(trainings));
  }

  async focus() {
    try {
      const files = await get("/lamina/files");
      this.files.hidden = files.length === 0;
      this.list.replaceChildren(...files.map((each) => h("li", {},
        h("span", { class: "name mono" }, each.file), each.rows_of ? h("span", { class: "chip" }, each.rows_of) : null, h("span", { class: "small dim" }, size(each.size_bytes)),
        h("button", { type: "button", class: "quiet", "aria-label": `look into ${each.file}`, onclick: () => this.audit(each.file) }, "Look into"))));
    } catch (error) {
      complain(error);
    }
  }

  async audit(file) {
    this.found.replaceChildren(h("p", { class: "dim" }, `Reading ${file} …`));
    try {
      const audit = await post("/lamina/audit", { file });
      this.found.replaceChildren(this.#report(audit));
      this.found.querySelector("button.main").focus();
    } catch (error) {
      this.found.replaceChildren(h("div", { class: "card" }, h("h2", { class: "bad" }, "This file cannot be used yet"), h("p", {}, error.message), h("p", { class: "small dim" }, error.hint ?? "")));
    }
  }

  /** Take files wherever on the page they are dropped: a browser would leave the page for them. */
  #listen() {
    const over = (event, isOver) => {
      if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return false;
      event.preventDefault();
      this.drop.classList.toggle("over", isOver);
      return true;
    };
    document.addEventListener("dragover", (event) => over(event, true));
    document.addEventListener("dragleave", (event) => over(event, false));
    document.addEventListener("drop", (event) => {
      if (!over(event, false)) return;
      location.hash = "train";
      this.#take(event.dataTransfer.files);
    });
  }

  async #take([file, ...others]) {
    if (!file) return;
    if (others.length) complain(new Error(`One file at a time: this is ${file.name}.`));
    this.sent.hidden = false;
    try {
      let path = null;
      let offset = 0;
      do {
        const end = Math.min(file.size, offset + PIECE_BYTES);
        const query = new URLSearchParams({ name: file.name, offset, last: end === file.size });
        ({ file: path } = await upload(`/lamina/files?${query}`, await file.slice(offset, end).arrayBuffer()));
        offset = end;
        this.sent.value = file.size ? offset / file.size : 1;
      } while (offset < file.size);
      await this.focus();
      await this.audit(path);
    } catch (error) {
      complain(error);
    } finally {
      this.sent.hidden = true;
      this.input.value = "";
    }
  }

  #report(audit) {
    const fresh = audit.rows - audit.known;
    const list = [["rows", audit.rows], ["new", fresh], ["known already", audit.known], ["duplicates left out", audit.duplicates], ["held out to measure", audit.heldout], ["longest, tokens", audit.longest]];
    const warnings = [];
    if (audit.longest > audit.context) warnings.push(`The longest row has ${audit.longest} tokens, the base's context is ${audit.context}: what is beyond it would be cut, and too much of that is refused.`);
    if (fresh === 0) warnings.push("Every row has been trained on already.");
    const example = h("pre", { class: "example", tabindex: "0", "aria-label": "the first row as the model sees it" }, audit.example.map((piece) => (piece.trained ? h("mark", {}, piece.text) : piece.text)));
    return h("div", { class: "card" }, h("h2", {}, audit.description),
      h("dl", { class: "facts" }, list.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value.toLocaleString("en"))))),
      warnings.map((text) => h("p", { class: "bad small warned" }, text)),
      h("h3", {}, "The first row as the model sees it; what is marked is trained"), example, this.#order(audit));
  }

  #order(audit) {
    const how = h("select", {}, h("option", { value: "train" }, "a new skill"), h("option", { value: "update" }, "more of a skill"));
    how.value = audit.how;
    const name = h("input", { type: "text", required: true, pattern: "[A-Za-z][A-Za-z0-9._\\-]{0,63}", title: "a letter, then letters, digits, dot, dash or underscore", value: audit.name });
    const start = async (event) => {
      event.preventDefault();
      try {
        await post("/lamina/trainings", { file: audit.file, how: how.value, name: name.value });
        this.found.replaceChildren();
        this.running.scrollIntoView({ block: "nearest" });
      } catch (error) {
        complain(error);
      }
    };
    return h("form", { class: "order", onsubmit: start },
      h("label", { class: "field" }, "It is", how), h("label", { class: "field" }, "Name of the layer, or of the skill it continues", name), h("button", { class: "main" }, "Train"));
  }

  #follow(trainings) {
    trainings.forEach((training, place) => {
      if (!this.cards.has(training.id)) this.cards.set(training.id, new TrainingCard(this.talk));
      const card = this.cards.get(training.id);
      if (this.running.children[place] !== card.element) this.running.insertBefore(card.element, this.running.children[place] ?? null);
      card.show(training);
    });
    for (const [id, card] of this.cards) {
      if (trainings.some((training) => training.id === id)) continue;
      card.element.remove();
      this.cards.delete(id);
    }
  }
}

function size(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  return bytes < 1024 ** 2 ? `${(bytes / 1024).toFixed(0)} KB` : `${(bytes / 1024 ** 2).toFixed(1)} MB`;
}
