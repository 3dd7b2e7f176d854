"""``python -m edgevit``: the command line where the ``edgevit`` script is not on the path."""

from edgevit.cli import main

main()
