"""Alembic as a library: no ini file, and the caller's transaction."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection


def config() -> Config:
    """Alembic's configuration of the store."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    made.set_main_option("path_separator", "os")
    made.set_main_option("file_template", "r%%(rev)s_%%(slug)s")  # a name that Python can import
    return made


def known(revision: str) -> bool:
    """Whether this package has a migration."""
    try:
        return ScriptDirectory.from_config(config()).get_revision(revision) is not None
    except CommandError:
        return False


def upgrade_to_head(db: Connection, version_table: str) -> None:
    """Run the migrations that a database has not had, in the connection's transaction."""
    made = config()
    made.attributes |= {"connection": db, "version_table": version_table}
    command.upgrade(made, "head")
