"""An index of the answers that are being written."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    running = sa.text("status = 'running'")
    op.create_index("ix_messages_running", "messages", ["updated"], sqlite_where=running, postgresql_where=running)
