"""One script for each version, with the SQL of each engine beside it."""
