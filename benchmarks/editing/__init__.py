"""Weight editing: one trainer of forget loss × retain loss × trainable subset; a method is a few lines."""
