"""The vLLM plugin: admission, stamp, worker hooks, forced tokens, canary, seam probe, server command."""
