// Model names: a stack's own name, or a sum of layers such as `base+tools+facts:0.5`.

/** Return the name of a sum. `terms` are `{layer, scale}`, bottom first. */
export function sumName(terms) {
  return ["base", ...terms.map(({ layer, scale }) => (scale === 1 ? layer : `${layer}:${scale}`))].join("+");
}

/** Return whether two lists of terms are the same sum, in the same order. */
export function sameTerms(one, other) {
  return one.length === other.length
    && one.every((term, place) => term.layer === other[place].layer && term.scale === other[place].scale);
}
