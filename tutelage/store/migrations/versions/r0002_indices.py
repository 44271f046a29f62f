"""Indices of what servers look for all the time: the answers that are being written, and the next task."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    running = sa.text("status = 'running'")
    op.create_index("ix_messages_running", "messages", ["updated"], sqlite_where=running, postgresql_where=running)
    op.create_index("ix_seats_state_task_id", "seats", ["state", "task_id", "id"])
