// Puts the views together: which is shown, what keys do, what runs in the background.

import { ChatView } from "./chat.js";
import { CompareView } from "./compare.js";
import { DataView } from "./data.js";
import { complain, h } from "./dom.js";
import { listenForKeys } from "./keys.js";
import { LineageView } from "./lineage.js";
import { ResultsView } from "./results.js";
import { onShelf, refreshShelf } from "./shelf.js";
import { themeToggle } from "./theme.js";
import { onTrainings, watchTrainings } from "./trainings.js";

const chat = new ChatView();
const compare = new CompareView();
const views = {
  chat: { title: "Chat", key: "c", view: chat },
  compare: { title: "Compare", key: "v", view: compare },
  train: { title: "Train", key: "d", view: new DataView(talkTo) },
  lineage: { title: "Lineage", key: "l", view: new LineageView() },
  results: { title: "Results", key: "r", view: new ResultsView() },
};
const badge = h("span", { class: "badge", hidden: true });
const links = Object.entries(views).map(([name, { title, key }]) => h("a", { href: `#${name}` }, title, name === "train" ? badge : null, h("kbd", { "aria-hidden": "true" }, key)));

function show() {
  if (location.hash === "#view") return; // the skip link
  const name = location.hash.slice(1) in views ? location.hash.slice(1) : "chat";
  for (const [each, { view }] of Object.entries(views)) view.element.hidden = each !== name;
  for (const link of links) link.toggleAttribute("aria-current", false);
  links[Object.keys(views).indexOf(name)].setAttribute("aria-current", "page");
  document.title = `${views[name].title} · lamina`;
  refreshShelf().catch(complain);
  views[name].view.focus();
}

/** Chat with the branch as it is now, or with a layer (by its digest) on top of it. */
async function talkTo(layer) {
  await refreshShelf();
  chat.picker.use(chat.picker.shelf.branch, layer);
  location.hash = "chat";
}

const current = () => Object.values(views).find(({ view }) => !view.element.hidden).view;
const inCompare = (run) => () => { if (current() === compare) run(); };

document.querySelector("nav").append(...links);
document.getElementById("view").append(...Object.values(views).map(({ view }) => view.element));
const nextTheme = themeToggle(document.getElementById("theme"));
const help = listenForKeys([
  ...Object.entries(views).map(([name, { title, key }]) => ({ key, what: title.toLowerCase(), run: () => { location.hash = name; } })),
  { key: "/", what: "to the question", run: () => current().composer?.area.focus() },
  { key: "n", what: "new conversation", run: () => { location.hash = "chat"; chat.restart(); } },
  { key: "e", what: "correct the last answer", run: () => current().correct?.() },
  { key: "Escape", what: "stop the answer", run: () => current().stop?.() },
  { key: "1", what: "compare: A is better", run: inCompare(() => compare.vote("model_a")) },
  { key: "2", what: "compare: B is better", run: inCompare(() => compare.vote("model_b")) },
  { key: "t", what: "compare: a tie", run: inCompare(() => compare.vote("tie")) },
  { key: "m", what: "light, dark or as the system", run: nextTheme },
]);
document.getElementById("help").addEventListener("click", help);
onShelf((shelf) => { document.getElementById("project").textContent = shelf.project; });
let ended = 0;
onTrainings((trainings) => {
  const running = trainings.filter((training) => training.state === "running");
  const last = running[0]?.points.at(-1);
  badge.hidden = running.length === 0;
  badge.textContent = last ? `${Math.round((100 * last.step) / running[0].steps)} %` : "…";
  if (trainings.length - running.length !== ended) refreshShelf().catch(complain); // there may be a new layer
  ended = trainings.length - running.length;
});
window.addEventListener("hashchange", show);
show();
watchTrainings();
