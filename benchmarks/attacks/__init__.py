"""Attacks on guards, without a language model: variants V1 to V14 of a question, and an adaptive attacker."""
