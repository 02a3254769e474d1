"""OpenAI's wire, under /v1."""
