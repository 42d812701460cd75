"""Low-rank layers on a base's linear maps."""

# Frozen factors whose products cost more than this share of the map's own are added to its weight.
WORTH_FOLDING = 0.1
