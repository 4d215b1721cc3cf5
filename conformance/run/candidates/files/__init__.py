"""Model files as candidates: each format, and how its files are opened and run."""
