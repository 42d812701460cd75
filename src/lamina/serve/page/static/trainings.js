// Trainings as they run, wherever they were started: one subscription for the whole page.

import { request } from "./api.js";
import { events } from "./sse.js";

const PAUSE_MS = 1000;
const listeners = new Set();
let now = [];

/** Call `listener` with the list of trainings, after every change. */
export function onTrainings(listener) {
  listeners.add(listener);
  listener(now);
}

/** Follow the server's trainings for as long as the page is open; a page nobody sees asks nothing. */
export async function watchTrainings() {
  for (;;) {
    if (document.hidden) await new Promise((seen) => document.addEventListener("visibilitychange", seen, { once: true }));
    try {
      for await (const { data } of events(await request("/lamina/trainings"))) {
        now = JSON.parse(data);
        for (const listener of listeners) listener(now);
      }
    } catch {
      await new Promise((done) => setTimeout(done, PAUSE_MS)); // the server is away; it may come back
    }
  }
}
