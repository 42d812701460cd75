// What was measured: the matrix of stacks and suites, and the charts.

import { get } from "./api.js";
import { complain, h } from "./dom.js";

const WIDE = matchMedia("(min-width: 700px)");

export class ResultsView {
  constructor() {
    this.place = h("div", {});
    this.element = h("section", { class: "view", "aria-label": "Results" },
      h("header", {}, h("h1", {}, "Results"), h("p", {}, "Recorded scores of the current branch, layer by layer, in percent; ± is half a 95 % interval, ▲ ▼ left the interval of the row above.")),
      this.place, this.charts = h("div", { class: "charts" }));
    this.urls = [];
  }

  async focus() {
    if (!this.place.hasChildNodes()) this.place.replaceChildren(h("p", { class: "dim" }, "Reading what was measured …"));
    try {
      const results = await get("/lamina/results");
      this.place.replaceChildren(results.suites.length ? matrix(results) : nothing());
      await this.#draw(JSON.stringify(results));
    } catch (error) {
      complain(error);
    }
  }

  /** Charts take a moment: they are asked for again only when the scores have changed. */
  async #draw(scores) {
    if (scores === this.drawn) return;
    const charts = await get("/lamina/charts");
    this.drawn = scores;
    this.urls.splice(0).forEach((url) => URL.revokeObjectURL(url));
    this.charts.replaceChildren(...charts.map((chart) => this.#chart(chart)));
  }

  #chart(chart) {
    const drawing = new Blob([WIDE.matches ? chart.wide : chart.narrow], { type: "image/svg+xml" });
    this.urls.push(URL.createObjectURL(drawing));
    // The wide drawing has its title in itself.
    return h("figure", {}, WIDE.matches ? null : h("figcaption", {}, chart.title), h("img", { src: this.urls.at(-1), alt: chart.caption }));
  }
}

function matrix({ stacks, suites, cells }) {
  const head = h("tr", {}, h("th", { scope: "col" }, "stack"), suites.map((suite) => h("th", { scope: "col" }, suite)));
  const rows = stacks.map((name, place) => h("tr", {}, h("th", { scope: "row" }, name), cells[place].map(cell)));
  const items = h("tr", { class: "dim" }, h("th", { scope: "row" }, "items"), suites.map((_, place) => h("td", {}, String(cells.map((row) => row[place]).findLast(Boolean)?.items ?? ""))));
  return h("div", { class: "card scroll", role: "region", "aria-label": "scores", tabindex: "0" }, h("table", { class: "matrix" }, h("thead", {}, head), h("tbody", {}, rows, items)));
}

function cell(score) {
  if (score === null) return h("td", { class: "dim", title: "not measured" }, "–");
  const half = 50 * (score.high - score.low);
  const moved = { 1: h("span", { class: "good", title: "better than the row above" }, " ▲"), "-1": h("span", { class: "bad", title: "worse than the row above" }, " ▼") }[score.moved];
  return h("td", {}, (100 * score.mean).toFixed(1), " ", h("span", { class: "half" }, `±${half.toFixed(0)}`), moved ?? null);
}

function nothing() {
  return h("div", { class: "card" }, h("p", {}, "Nothing has been measured yet. ", h("code", {}, "lamina eval"), " scores every layer on every suite; a training with suites in lamina.toml records what its gate measured."));
}
