// What there is to stack, shared by the views and read anew when something was trained.

import { get } from "./api.js";

const listeners = new Set();
let known = null;

/** Call `listener` with the shelf now, if it is known, and after every change. */
export function onShelf(listener) {
  listeners.add(listener);
  if (known) listener(known);
}

export async function refreshShelf() {
  const shelf = await get("/lamina/shelf");
  if (JSON.stringify(shelf) === JSON.stringify(known)) return;
  known = shelf;
  for (const listener of listeners) listener(shelf);
}
