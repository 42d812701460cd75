// Elements from data. Text is always set as text, never as markup.

/** Return an element: attributes by name, `on…` as listeners, booleans as present or absent, children appended. */
export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Return an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Say a line to the person; problems stay longer. */
export function toast(text, { bad = false } = {}) {
  const line = h("div", { class: bad ? "toast bad" : "toast" }, text);
  document.getElementById("toasts").append(line);
  setTimeout(() => line.remove(), bad ? 8000 : 3000);
}

/** Show an error of the API, or of this page, as a sentence. */
export function complain(error) {
  if (error.name === "AbortError") return;
  toast(error.hint ? `${error.message} (${error.hint})` : error.message, { bad: true });
}
