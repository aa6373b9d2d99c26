"""`python -m processor` is the same command as `processor`."""

from processor.shell.cli import main

main()
