"""The server: an OpenAI-compatible API, and the pages on which people chat, compare and rank."""
