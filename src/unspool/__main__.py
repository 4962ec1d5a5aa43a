"""`python -m unspool`: the command, where its script is not on the path."""

from unspool.cli import main

main()
