"""The command line: one command per file, display.py is the only place that prints."""
