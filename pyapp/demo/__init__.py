"""Recorded workflow runs, read from files and played through the database."""
