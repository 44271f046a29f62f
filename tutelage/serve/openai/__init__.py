"""The endpoints of OpenAI's API, as its official client calls them."""
