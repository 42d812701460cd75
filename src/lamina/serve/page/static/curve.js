// The loss of a training, step by step, as a drawing that says itself in words.

import { svg } from "./dom.js";

const HEIGHT = 150;
const LEFT = 40;
const BOTTOM = 20;

/** Return the drawing, `width` pixels wide. `points` are `{step, loss, heldout}`, `steps` is how many are planned. */
export function drawCurve(points, steps, width) {
  const held = points.filter((point) => point.heldout !== null);
  const values = [...points.map((point) => point.loss), ...held.map((point) => point.heldout)];
  const [low, high] = bounds(values);
  const x = (step) => LEFT + (width - LEFT - 8) * (step / Math.max(1, steps));
  const y = (value) => 8 + (HEIGHT - BOTTOM - 8) * (1 - (value - low) / (high - low));
  const path = (each, value) => each.map((point) => `${x(point.step).toFixed(1)},${y(value(point)).toFixed(1)}`).join(" ");
  const told = `loss ${points[0].loss.toFixed(2)} at first, ${points.at(-1).loss.toFixed(2)} at step ${points.at(-1).step} of ${steps}`
    + (held.length ? `, held-out ${held.at(-1).heldout.toFixed(2)}` : "");
  const ticks = [low, (low + high) / 2, high].flatMap((value) => [
    svg("line", { class: "grid", x1: LEFT, x2: width - 8, y1: y(value), y2: y(value) }),
    text(LEFT - 6, y(value) + 4, "end", value.toFixed(high - low < 0.5 ? 2 : 1)),
  ]);
  return svg("svg", { class: "curve", viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": told },
    ...ticks, text(LEFT, HEIGHT - 4, "start", "step 0"), text(width - 8, HEIGHT - 4, "end", String(steps)),
    svg("polyline", { class: "loss", points: path(points, (point) => point.loss) }),
    svg("polyline", { class: "heldline", points: path(held, (point) => point.heldout) }),
    ...held.map((point) => svg("circle", { class: "held", cx: x(point.step), cy: y(point.heldout), r: 2.5 })));
}

function bounds(values) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const room = Math.max(0.02, 0.08 * (high - low));
  return [Math.max(0, low - room), high + room];
}

function text(x, y, anchor, content) {
  return svg("text", { x, y, "text-anchor": anchor }, content);
}
