"""The reference engine: the same bundle on a Hugging Face model."""
