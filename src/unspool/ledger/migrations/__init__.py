"""Alembic's scripts for the ledger's tables; `unspool ledger migrate` runs them."""
