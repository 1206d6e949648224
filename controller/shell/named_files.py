"""The files that a study names, looked at without any service: what would end, or shut, its daemon at once."""

import os
import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile

from controller.shell.access import TokensRefused, load_tokens
from controller.shell.config import Study
from controller.shell.connections import Tls
from controller.shell.journal_file import JournalRefused
from controller.shell.tls import CannotConnect, Section, context
from controller.shell.toml_records import Mistake

LITTLE_ROOM = 2_000_000_000  # bytes, as the alert has it
_FROM = "relative paths start at the study file"


def faults(study: Study) -> dict[str, str]:
    """What is wrong, by part."""
    found = {part: str(mistake) for part, mistake in _absent(study)}
    if (place := journal_place(study)) is not None:
        found["journal"] = str(place)
    if "admin" not in found and (fault := admin_fault(study)) is not None:
        found["admin"] = fault
    services: tuple[tuple[Section, Tls], ...] = (("kafka", study.kafka.tls), ("redis", study.redis.tls))
    for part, tls in services:
        if part not in found and tls != Tls() and (fault := _tls_fault(part, tls)) is not None:
            found[part] = fault
    return found


def journal_place(study: Study) -> Mistake | None:
    """Why no journal can be made where there is none yet, or why the one there cannot be written to; or None."""
    folder = study.journal.absolute().parent
    accepted = f"a file in a folder that is there and can be written to; {_FROM}"
    if study.journal.is_file():
        own = f"a file that this user may write to, on a file system that is not read-only; {_FROM}"
        said = f"a journal that cannot be written to: {study.journal.absolute()}"
        if not os.access(study.journal, os.W_OK):
            return Mistake("journal.path", said, own)
    elif study.journal.exists():
        return None
    if not folder.is_dir():
        said = f"what is no folder: {folder}" if folder.exists() else f"no such folder: {folder}"
        return Mistake("journal.path", said, accepted)
    try:
        with TemporaryFile(dir=folder):  # some file systems tell root of no rights that keep files out
            return None
    except OSError as error:
        said = f"a folder in which no file can be made ({error.strerror}): {folder}"
        return Mistake("journal.path", said, accepted)


def little_room(study: Study) -> str | None:
    """What to say of a disk that may soon be full; None where there is room, or no place for a journal anyway."""
    folder = study.journal.absolute().parent
    if journal_place(study) is not None or (free := shutil.disk_usage(folder).free) >= LITTLE_ROOM:
        return None
    return (
        f"journal.path: {free / 1e9:.1f} GB are free in {folder}: below {LITTLE_ROOM / 1e9:g} GB the alert "
        "TrimtabJournalDiskFull fires, and the daemon ends when nothing is left"
    )


def require_journal_place(study: Study) -> None:
    """Raise `JournalRefused` where no journal can be made and there is none yet, or the one there takes nothing."""
    place = journal_place(study)
    if place is not None:
        raise JournalRefused(str(place))


def admin_fault(study: Study) -> str | None:
    """Why nobody could be let in: tokens that cannot be read, or a certificate that cannot be used; or None."""
    admin = study.admin
    try:
        load_tokens(None if admin.tokens_file is None else Path(admin.tokens_file), os.environ)
        if admin.cert_file is not None:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(admin.cert_file, admin.key_file)
    except (TokensRefused, OSError) as error:  # ssl's errors are OSErrors
        return str(error)
    return None


def _absent(study: Study) -> Iterator[tuple[str, Mistake]]:
    """Of each part, the files of TLS that are not there."""
    for part, table in (("admin", study.admin), ("kafka", study.kafka), ("redis", study.redis)):
        for key in ("key_file", "cert_file", "ca_file"):
            path = getattr(table, key, None)
            if path is not None and not Path(path).exists():
                yield part, Mistake(f"{part}.{key}", f"no such file: {path}", f"a file in PEM; {_FROM}")


def _tls_fault(part: Section, tls: Tls) -> str | None:
    try:
        context(part, tls)
    except (CannotConnect, OSError) as error:
        return str(error)
    return None
