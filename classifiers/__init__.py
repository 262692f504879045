"""Text to score: normalisation, aliases, encoder, neighbours, head, fusion, calibration; and their fitting."""
