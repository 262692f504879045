"""Where interventions happen: inside vLLM, and on Hugging Face models as the tests' oracle."""
