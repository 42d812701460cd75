// The tree of all branches and tags, newest layer on top, as `lamina log --all` draws it.

import { get } from "./api.js";
import { complain, h } from "./dom.js";

const STROKES = { "│": "line", "●": "dot", "○": "ring", "├": "fork", "─": "dash", "╯": "turn" };

export class LineageView {
  constructor() {
    this.tree = h("ol", { class: "tree card", "aria-label": "layers, newest first" });
    this.element = h("section", { class: "view", "aria-label": "Lineage" },
      h("header", {}, h("h1", {}, "Lineage"), h("p", {}, "Every branch and tag: what each layer took and what it changed. Newest on top.")), this.tree);
  }

  async focus() {
    try {
      const rows = await get("/lamina/lineage");
      this.tree.replaceChildren(...rows.map((row, place) => line(row, rows[place - 1])));
    } catch (error) {
      complain(error);
    }
  }
}

function points(suite, change) {
  const size = Math.abs(100 * change);
  return `${suite} ${change > 0 ? "+" : "−"}${size.toFixed(size < 1 ? 1 : 0)}`;
}

function line(row, above) {
  const [, graph, rest] = /^([│├─╯●○ ]*)(.*)$/u.exec(row.graph);
  const strokes = h("span", { class: "strokes", "aria-hidden": "true" }, [...graph.trimEnd()].map((char, place) => {
    const isFirst = char === "●" && (!above || !"│●├".includes([...above.graph][place] ?? " "));
    return h("i", { class: `${STROKES[char] ?? ""}${isFirst ? " first" : ""}` });
  }));
  if (row.digest === null) return rest ? h("li", {}, strokes, h("div", { class: "what" }, h("span", {}, rest))) : h("li", { "aria-hidden": "true" }, strokes);
  const facts = [`${row.tokens.toLocaleString("en")} tokens`, `${Math.round(row.seconds)} s`, row.money];
  if (row.loss) facts.push(`held-out loss ${row.loss[0].toFixed(2)} → ${row.loss[1].toFixed(2)}`);
  if (row.note) facts.push(row.note);
  return h("li", {}, strokes, h("div", { class: "what" },
    h("div", { class: "row" }, h("b", {}, row.label), h("code", { class: "dim" }, row.digest), row.refs.map((ref) => h("span", { class: "chip live" }, ref)),
      row.effects.map(([suite, change]) => h("span", { class: change > 0 ? "chip good" : "chip bad" }, points(suite, change)))),
    h("div", { class: "small" }, facts.join(" · "))));
}
