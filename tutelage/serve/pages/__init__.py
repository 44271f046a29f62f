"""The web pages: server-rendered, with small ES modules of our own; no request leaves the machine."""
