"""What is done to a flagged request: pure functions and their fitting, blind to who flagged it and who serves it."""
