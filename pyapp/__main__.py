"""Run the command line: ``python -m pyapp``."""

from pyapp.cli.main import main

raise SystemExit(main())
