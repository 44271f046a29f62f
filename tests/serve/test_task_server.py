"""Tasks asked of a model behind the API: the same likelihoods and answers as of its checkpoint."""

from __future__ import annotations

import pytest
from serving import served, tiny_assistant

from tutelage.assistant.remote import Remote
from tutelage.errors import UsageError
from tutelage.evaluate.tasks.models import Local, Server
from tutelage.records import Message

CHAT = (Message(role="user", content="Who are you?"),)
