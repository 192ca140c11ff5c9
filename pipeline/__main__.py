"""`python -m pipeline` is `hepduck`."""

from pipeline.cli import main

main()
