"""The server: an OpenAI-compatible API over the service that generates."""
