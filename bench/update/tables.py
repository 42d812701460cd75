"""The tables of docs/design/update.md, from the results of ``bench/update.py``.

python bench/update/tables.py [bench/results/update.json]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["headline"]

_RESULTS = Path(__file__).parents[1] / "results" / "update.json"
_TARGETS = (
    ("acc_final", "average after the last stage", ""),
    ("acc_joint", "joint training on everything", ""),
    ("acc_final_minus_joint", "the difference", "at least -1"),
    ("acc_sequential", "one adapter trained on and on", ""),
    ("acc_base", "bare base", ""),
    ("bwt", "backward transfer", "at least -1"),
    ("bwt_sequential", "backward transfer of the one adapter", ""),
    ("guard_delta", "guards against the base", "no significant loss"),
    ("order_spread", "orders, best minus worst", "at most 1.5"),
    ("gate_false_accept", "bad layers that the gate let in, %", "at most 5"),
    ("gate_false_reject", "good layers that it kept out, %", "5 a suite where items have the power"),
    ("svamp", "SVAMP", ""),
)


def headline(figures: dict[str, Any]) -> str:
    """Return the table of the main figures, in points, beside their targets."""
    rows = [["figure", "value", "95 % interval", "target"]]
    for key, name, target in _TARGETS:
        found = figures[key]
        if found is not None:
            low, high = 100 * found["low"], 100 * found["high"]
            rows.append([name, f"{100 * found['value']:.1f}", f"{low:.1f} to {high:.1f}", target])
    shares = figures["update_cost_share"]
    for unit in ("tokens", "flops", "seconds") if shares else ():
        each = [100 * update[unit] for update in shares["updates"]]
        rows.append([f"an update's share, {unit}, %", f"{100 * shares[unit]:.1f}", _span(each), "at most 15"])
    return _markdown(rows)


def matrices(figures: dict[str, Any]) -> str:
    """Return the matrices of lamina and of the one adapter, seed by seed, in percent."""
    parts = []
    for run in ("lamina", "sequential", "joint"):
        for seed, matrix in zip(figures["plan"]["seeds"], figures["matrices"][run], strict=False):
            rows = [[f"{run}, seed {seed}", *matrix["suites"]]]
            for name, scores, spans in zip(matrix["stacks"], matrix["scores"], matrix["intervals"], strict=True):
                rows.append([name, *(_percent(*each) for each in zip(scores, spans, strict=True))])
            parts.append(_markdown(rows))
    return "\n\n".join(parts)


def layers(figures: dict[str, Any]) -> str:
    """Return how lamina's layers were trained and what the gate said."""
    rows = [["seed", "layer", "rows", "rank", "passes", "rate", "scale", "tokens", "seconds", "gate"]]
    for layer in (layer for seed in figures["layers"] for layer in seed):
        recipe, cost, verdict = layer["recipe"], layer["cost"], layer["verdict"]
        against = [each for each in (verdict or {}).get("suites", ()) if not each["passed"]]
        said = "; ".join(f"{each['suite']} {each['reason']}" for each in against) or ("let in" if verdict else "-")
        numbers = [layer["rows"], recipe["rank"], recipe["epochs"], recipe["learning_rate"], layer["scale"]]
        numbers += [cost["tokens"], round(cost["seconds"])]
        rows.append([str(layer["seed"]), layer["name"], *(f"{number:g}" for number in numbers), said])
    return _markdown(rows)


def stairs(figures: dict[str, Any]) -> str:
    """Return the points of the chart."""
    rows = [["way", "stage", "score, %", "tokens so far", "PFLOP", "seconds"]]
    for way, points in figures["staircase"].items():
        for point in points:
            numbers = [f"{point['tokens']:,.0f}", f"{point['flops'] / 1e15:.2f}", f"{point['seconds']:,.0f}"]
            rows.append([way, point["stage"], f"{100 * point['score']:.1f}", *numbers])
    return _markdown(rows)


def _span(values: list[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f}" if len(values) > 1 else ""


def _percent(score: float, span: list[float]) -> str:
    return f"{100 * score:.1f} ({100 * span[0]:.0f}-{100 * span[1]:.0f})"


def _markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else _RESULTS
    figures = json.loads(path.read_text("utf-8"))
    print("\n\n".join(part(figures) for part in (headline, matrices, layers, stairs)))


if __name__ == "__main__":
    main()
