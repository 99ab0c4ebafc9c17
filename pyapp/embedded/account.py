"""The system account that the server runs as: PostgreSQL refuses to run as root."""

import os
import pwd
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyapp.embedded.error import EmbeddedError


@dataclass(frozen=True)
class Account:
    """A system account."""

    uid: int
    gid: int

    @property
    def switch(self) -> dict[str, Any]:
        """Return the arguments that make subprocess run a program as this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if os.geteuid() == 0 else {}

    def own(self, path: Path) -> None:
        """Give a file or directory, never the target of a link, to this account."""
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def __str__(self) -> str:
        """Return the name, or the number where the account has none."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)


def server_account(data_dir: Path | None = None) -> Account:
    """Return who runs the server: the caller; for root the data directory's owner, postgres or nobody."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    with suppress(OSError):
        if data_dir is not None and (found := data_dir.stat()).st_uid != 0:
            return Account(found.st_uid, found.st_gid)
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid)
    raise EmbeddedError(
        "PostgreSQL refuses to run as root and there is no account postgres or nobody: "
        "create one with `useradd --system postgres`, or run as another user"
    )


def private_directory(path: Path, account: Account) -> None:
    """Make a 0700 directory of the account; raise EmbeddedError where something else already stands there."""
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    # lstat, because in /tmp anybody may have put a link or a directory of his own here first.
    found = path.lstat()
    if found.st_uid == 0 and stat.S_ISDIR(found.st_mode):
        account.own(path)
        found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != account.uid or found.st_mode & 0o077:
        raise EmbeddedError(f"{path} is not a private (0700) directory of account {account}: remove it and try again")
