// A card for one training: loss curve, rate and time left while it runs, then what the gate said.

import { post } from "./api.js";
import { drawCurve } from "./curve.js";
import { complain, h } from "./dom.js";

const WORDS = {
  running: ["running", "live"], accepted: ["in the branch", "good"], refused: ["refused by the gate", "bad"],
  current: ["nothing new", ""], stopped: ["stopped", ""], failed: ["failed", "bad"],
};

export class TrainingCard {
  /** `talk` is called with a layer's digest, or null for the branch as it is, to chat with the result. */
  constructor(talk) {
    this.talk = talk;
    this.head = h("div", { class: "row spread" });
    this.bar = h("progress", { max: 1, "aria-label": "progress" });
    this.facts = h("dl", { class: "facts" });
    this.plot = h("div", {});
    this.legend = h("div", { class: "legend" }, h("span", {}, h("i", {}), "loss"), h("span", {}, h("i", { class: "held" }), "held-out loss"), h("span", {}, "nats per token"));
    this.end = h("div", { class: "end" });
    this.log = h("pre", { tabindex: "0" });
    this.fold = h("details", {}, h("summary", {}, "What the command says"), this.log);
    new ResizeObserver(() => {
      if (this.training && this.plot.clientWidth !== this.width) this.#draw(this.training);
    }).observe(this.plot);
    this.element = h("article", { class: "card training" }, this.head, this.bar, this.facts, this.legend, this.plot, this.end, this.fold);
  }

  show(training) {
    this.training = training;
    const [word, kind] = WORDS[training.state];
    const stop = h("button", { type: "button", onclick: () => post(`/lamina/trainings/${training.id}/stop`, {}).catch(complain) }, "Stop");
    const isRunning = training.state === "running";
    if (this.state !== training.state) {
      this.state = training.state;
      this.head.replaceChildren(h("h2", {}, training.title), h("span", { class: "row" }, h("span", { class: `chip ${kind}` }, word), isRunning && training.here ? stop : null));
      this.end.replaceChildren(...this.#outcome(training));
    }
    this.element.setAttribute("aria-label", `${training.title}: ${word}`);
    const last = training.points.at(-1);
    this.bar.hidden = !isRunning;
    if (last) this.bar.value = last.step / training.steps;
    else this.bar.removeAttribute("value");
    this.facts.replaceChildren(...facts(training, last).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
    this.facts.hidden = this.legend.hidden = !last;
    this.legend.children[1].hidden = training.points.every((point) => point.heldout === null);
    this.#draw(training);
    this.log.textContent = training.log.join("\n");
    this.fold.hidden = training.log.length === 0;
    // Before the first step and after the last one, what the command says is all there is to see.
    if (isRunning) this.end.replaceChildren(h("p", { class: "dim small" }, !last || last.step === training.steps ? training.log.at(-1) ?? "starting …" : ""));
  }

  #draw({ points, steps }) {
    this.width = this.plot.clientWidth;
    this.plot.replaceChildren(...(points.length ? [drawCurve(points, steps, this.width || 640)] : []));
  }

  #outcome({ state, outcome }) {
    if (outcome?.error) return [h("p", { class: "bad" }, outcome.error), h("p", { class: "small dim" }, outcome.hint ?? "")];
    if (state === "current") return [h("p", {}, "Every row has been trained on already; the branch is up to date.")];
    if (state === "stopped") return [h("p", {}, "Stopped after a checkpoint. The same training goes on from there.")];
    if (!outcome?.layer) return [];
    const [before, after] = outcome.heldout_loss;
    const loss = before === null ? [] : [h("p", {}, `Held-out loss ${before.toFixed(3)} → ${after.toFixed(3)} nats per token.`)];
    const told = outcome.gate.length ? verdict(outcome.gate)
      : h("p", { class: "dim small" }, "No suite judged it: name one like the layer, or mark guards, in lamina.toml.");
    const isIn = state === "accepted";
    const button = h("button", { type: "button", class: "main", onclick: () => this.talk(isIn ? null : outcome.layer.slice(7, 19)) }, isIn ? `Chat with ${outcome.name}` : "Try the candidate");
    return [...loss, told, h("p", { class: "row" }, button)];
  }
}

function facts({ points, steps, tokens_per_s: rate, eta_s: eta, state }, last) {
  if (!last) return [];
  const held = points.findLast((point) => point.heldout !== null);
  const list = [["step", `${last.step} / ${steps}`], ["loss", last.loss.toFixed(3)]];
  if (held) list.push(["held-out", held.heldout.toFixed(3)]);
  list.push(["tokens/s", Math.round(rate).toLocaleString("en")]);
  if (state === "running" && eta !== null) list.push(["time left", clock(eta)]);
  return list;
}

function verdict(lines) {
  const percent = (value) => `${(100 * value).toFixed(1)} %`;
  return h("div", { class: "scroll", role: "region", "aria-label": "verdict of the gate", tabindex: "0" }, h("table", { class: "verdict" },
    h("thead", {}, h("tr", {}, ["suite", "role", "before", "after", "verdict", "why"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, lines.map((line) => h("tr", {},
      h("td", {}, line.suite), h("td", {}, line.role), h("td", {}, percent(line.before)), h("td", {}, percent(line.after)),
      h("td", {}, h("span", { class: line.passed ? "chip good" : "chip bad" }, line.passed ? "passed" : "failed")), h("td", { class: "reason" }, line.reason))))));
}

/** Return seconds as people say them. */
export function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.round((whole % 3600) / 60)} min`;
}
