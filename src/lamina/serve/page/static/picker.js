// Which stack answers: a branch or tag as it is, or its layers switched and weighed by hand.

import { h } from "./dom.js";
import { sameTerms, sumName } from "./sums.js";

const BASE = "base";
const MOST_SCALE = 2;

/** A stack picker. `model` is the name to ask the API for; `onchange` is called when it changes. */
export class Picker {
  constructor({ label, start = null, onchange = () => {} }) {
    this.wanted = start;
    this.onchange = onchange;
    this.shelf = null;
    this.terms = [];
    this.select = h("select", { onchange: () => this.use(this.select.value) });
    this.slabs = h("ul", { class: "slabs" });
    this.others = h("ul", { class: "slabs" });
    this.fold = h("details", {}, h("summary", {}), this.others);
    this.sum = h("p", { class: "sum", "aria-live": "polite" });
    this.element = h("div", { class: "picker" },
      h("label", { class: "field" }, label, this.select), this.slabs, this.fold, this.sum);
  }

  /** Show what there is now; a stack that was picked as it is follows its branch. */
  setShelf(shelf) {
    const before = this.shelf && !this.#isAsNamed() ? this.terms : null;
    this.shelf = shelf;
    this.wanted ??= shelf.branch;
    const named = this.#named(this.wanted);
    if (named === null) this.wanted = shelf.branch;
    this.#show(before ?? this.#named(this.wanted));
  }

  /** Pick a branch, a tag or the base; `plus` is a further layer on top. */
  use(name, plus = null) {
    this.wanted = name;
    this.#show([...this.#named(name), ...(plus ? [{ layer: this.#termOf(plus), scale: 1 }] : [])]);
  }

  get model() {
    return this.#isAsNamed() ? this.wanted : this.sumNow;
  }

  /** The layers that are switched on, as a sum. */
  get sumNow() {
    return sumName(this.terms);
  }

  #isAsNamed() {
    const named = this.#named(this.wanted);
    return named !== null && sameTerms(named, this.terms);
  }

  #named(name) {
    if (name === BASE) return [];
    return this.shelf.stacks.find((stack) => stack.name === name)?.terms ?? null;
  }

  #termOf(digest) {
    return this.shelf.layers.find((layer) => layer.digest === digest)?.term ?? digest;
  }

  #show(terms) {
    this.terms = terms.map((term) => ({ ...term }));
    const stacks = [...this.shelf.stacks].sort((a, b) => (b.name === this.shelf.branch) - (a.name === this.shelf.branch));
    this.select.replaceChildren(
      ...stacks.map(({ name, kind }) => h("option", { value: name }, kind === "tag" ? `${name} (tag)` : name)),
      h("option", { value: BASE }, "base (no layers)"));
    this.select.value = this.wanted;
    this.order = this.terms.map((term) => term.layer);
    const rest = this.shelf.layers.filter((layer) => !this.order.includes(layer.term)).reverse();
    this.order.push(...rest.map((layer) => layer.term));
    this.slabs.replaceChildren(
      ...this.terms.map((term) => this.#slab(term.layer)).reverse(),
      h("li", { class: "slab base" }, h("div", { class: "top" }, h("span", { class: "name" }, this.shelf.base), h("span", { class: "small dim" }, "base, frozen"))));
    this.others.replaceChildren(...rest.map((layer) => this.#slab(layer.term)));
    this.fold.hidden = rest.length === 0;
    this.fold.querySelector("summary").textContent = rest.length === 1 ? "1 other layer" : `${rest.length} other layers`;
    this.#changed();
  }

  #slab(layer) {
    const card = this.shelf.layers.find((each) => each.term === layer);
    const name = card?.name ?? layer;
    const held = this.terms.find((term) => term.layer === layer);
    const toggle = h("input", { type: "checkbox", role: "switch", "aria-label": `layer ${name}`, checked: Boolean(held) });
    const range = h("input", { type: "range", min: 0, max: MOST_SCALE, step: 0.05, value: held?.scale ?? 1, "aria-label": `scale of ${name}` });
    const shown = h("output", {});
    const note = card ? `${card.rows.toLocaleString("en")} rows of ${card.files.join(", ") || "unknown files"}, rank ${card.rank}` : "";
    const slab = h("li", { class: "slab", title: card ? `${card.digest}, ${note}` : layer },
      h("div", { class: "top" }, toggle, h("span", { class: "name" }, name), shown),
      h("div", { class: "scale" }, range), h("div", { class: "note" }, note));
    const take = () => {
      const scale = Number(range.value);
      slab.classList.toggle("off", !toggle.checked);
      slab.style.setProperty("--weight", `${Math.min(100, 100 * scale)}%`);
      shown.textContent = toggle.checked ? `×${scale}` : "off";
      const kept = this.terms.filter((term) => term.layer !== layer);
      if (toggle.checked) kept.push({ layer, scale });
      this.terms = kept.sort((a, b) => this.order.indexOf(a.layer) - this.order.indexOf(b.layer));
      this.#changed();
    };
    toggle.addEventListener("change", take);
    range.addEventListener("input", take);
    slab.classList.toggle("off", !held);
    slab.style.setProperty("--weight", `${Math.min(100, 100 * (held?.scale ?? 1))}%`);
    shown.textContent = held ? `×${held.scale}` : "off";
    return slab;
  }

  #changed() {
    const model = this.model;
    this.sum.textContent = model === this.wanted && model !== BASE ? `${model} = ${this.sumNow}` : model;
    this.onchange(model);
  }
}
