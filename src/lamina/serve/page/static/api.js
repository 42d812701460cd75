// Requests to the server that sent this page, and to no other.

import { h } from "./dom.js";

const KEY = "lamina-key";

/** What the server said no to: a sentence, and a hint where there is one. */
export class ApiError extends Error {
  constructor(status, { message, hint = "" }) {
    super(message);
    this.status = status;
    this.hint = hint;
  }
}

export const get = async (path) => (await request(path)).json();

export const post = async (path, body) => (await send(path, body)).json();

/** Post JSON and return the response as it begins, for answers that stream. */
export function send(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return request(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

/** Post bytes. */
export async function upload(path, bytes) {
  const headers = { "Content-Type": "application/octet-stream" };
  return (await request(path, { method: "POST", headers, body: bytes })).json();
}

export async function request(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: "The server does not answer.", hint: "is `lamina serve` still running?" });
  }
  if (response.status === 401) {
    await askKey();
    return request(path, options);
  }
  if (!response.ok) throw new ApiError(response.status, await problem(response));
  return response;
}

async function problem(response) {
  try {
    return (await response.json()).error;
  } catch {
    return { message: `The server answered ${response.status}.` };
  }
}

let asking = null;

/** Ask for the API key, once however many requests need it; it is kept until the tab closes. */
function askKey() {
  asking ??= new Promise((resolve) => {
    const input = h("input", { type: "password", "aria-label": "API key", autocomplete: "off", required: true });
    const form = h("form", { method: "dialog" },
      h("h2", {}, "This server asks for its API key"),
      h("p", { class: "dim small" }, "It was given to `lamina serve`. It stays in this tab."),
      input, h("p", { class: "row" }, h("button", { class: "main" }, "Go on")));
    const dialog = h("dialog", { onclose: () => {
      sessionStorage.setItem(KEY, input.value.trim());
      dialog.remove();
      asking = null;
      resolve();
    } }, form);
    document.body.append(dialog);
    dialog.showModal();
  });
  return asking;
}
