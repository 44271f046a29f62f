"""The embedded world: a small invented country that the package is tried, taught and tested on."""
