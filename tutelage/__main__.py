"""`python -m tutelage` is the same as `tutelage`."""

from tutelage.cli import entry

entry()
