"""Does it work, compared with what: data, worlds, training, weight editing, metrics, cost, report."""
