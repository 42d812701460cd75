// Two stacks on one prompt, and a vote that is kept as preference data.

import { post } from "./api.js";
import { Answer } from "./answer.js";
import { Composer } from "./composer.js";
import { complain, h, toast } from "./dom.js";
import { Picker } from "./picker.js";
import { settings, settingsForm } from "./settings.js";
import { onShelf } from "./shelf.js";

const VOTES = [["model_a", "A is better", "1"], ["tie", "Tie", "t"], ["model_b", "B is better", "2"]];

export class CompareView {
  constructor() {
    this.sides = [new Side("A", null), new Side("B", "base")];
    this.composer = new Composer({ label: "One question for both", send: (text) => this.ask(text), stop: () => this.stop() });
    this.votes = h("div", { class: "votes", role: "group", "aria-label": "Which answer is better?", hidden: true },
      VOTES.map(([winner, label, key]) => h("button", { type: "button", onclick: () => this.vote(winner) }, label, h("kbd", {}, key))));
    this.question = h("p", { class: "asked", hidden: true });
    this.element = h("section", { class: "view compare", "aria-label": "Compare" },
      h("header", {}, h("h1", {}, "Compare"), h("p", {}, "Two stacks answer the same question. Votes go to votes.jsonl as prompt, chosen and rejected, ready for preference training.")),
      this.composer.element, this.question,
      h("div", { class: "pair" }, this.sides.map((side) => side.element)), this.votes, settingsForm());
    onShelf((shelf) => this.sides.forEach((side) => side.picker.setShelf(shelf)));
  }

  focus() {
    this.composer.area.focus({ preventScroll: true });
  }

  async ask(text) {
    this.question.textContent = text;
    this.question.hidden = false;
    this.votes.hidden = true;
    this.composer.setBusy(true);
    const prompt = [{ role: "user", content: text }];
    const said = await Promise.all(this.sides.map((side) => side.ask(prompt)));
    this.composer.setBusy(false);
    this.votes.hidden = !said.every(Boolean);
  }

  stop() {
    this.sides.forEach((side) => side.answer?.stop());
  }

  correct() {
    this.sides.find((side) => side.element.contains(document.activeElement))?.answer?.edit();
  }

  async vote(winner) {
    if (this.votes.hidden) return;
    const [a, b] = this.sides.map(({ answer }) => answer);
    try {
      const { new: isNew } = await post("/lamina/votes", {
        prompt: a.prompt, a: a.record, b: b.record, winner,
      });
      toast(isNew ? "Saved to votes.jsonl" : "This vote is in votes.jsonl already");
      this.votes.hidden = true;
      this.sides.forEach((side, place) => side.element.classList.toggle("best", winner === ["model_a", "model_b"][place]));
      this.focus();
    } catch (error) {
      complain(error);
    }
  }
}

class Side {
  constructor(letter, start) {
    this.shown = h("code", {});
    this.picker = new Picker({ label: `Stack ${letter}`, start, onchange: (model) => { this.shown.textContent = model; } });
    this.place = h("div", {});
    this.element = h("section", { class: "side card", "aria-label": `Stack ${letter}` },
      h("header", {}, h("b", {}, letter), this.shown),
      h("details", {}, h("summary", {}, "Choose the stack, switch and weigh its layers"), this.picker.element), this.place);
  }

  ask(prompt) {
    this.element.classList.remove("best");
    this.answer = new Answer({ model: this.picker.model, sum: this.picker.sumNow, prompt, settings });
    this.place.replaceChildren(this.answer.element);
    return this.answer.run();
  }
}
