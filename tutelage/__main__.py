"""`python -m tutelage` is the same as `tutelage`."""

from tutelage.cli.app import entry

entry()
