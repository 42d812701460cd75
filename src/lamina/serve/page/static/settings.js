// How answers are asked for: shared by chat and compare.

import { h } from "./dom.js";

export const settings = { system: "", temperature: 0, maxTokens: 256 };

/** Return the form for `settings`, folded away. */
export function settingsForm() {
  const system = h("textarea", { rows: 2, oninput: () => { settings.system = system.value.trim(); } });
  const temperature = number(0, 2, 0.1, settings.temperature, (value) => { settings.temperature = value; });
  const longest = number(1, 4096, 1, settings.maxTokens, (value) => { settings.maxTokens = value; });
  return h("details", {}, h("summary", {}, "Answer settings"),
    h("div", { class: "settings" },
      h("label", { class: "field" }, "System message", system),
      h("label", { class: "field" }, "Temperature (0 takes the likeliest token)", temperature),
      h("label", { class: "field" }, "Longest answer, tokens", longest)));
}

function number(min, max, step, value, take) {
  const input = h("input", { type: "number", min, max, step, value, oninput: () => {
    if (input.value !== "" && input.checkValidity()) take(Number(input.value));
  } });
  return input;
}
