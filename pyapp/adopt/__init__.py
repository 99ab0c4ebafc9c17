"""Adopting the tables of an application: exact progress for any orchestrator."""
