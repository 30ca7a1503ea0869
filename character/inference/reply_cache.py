"""The reply cache: one record per generated reply, separate from DVC's cache and shared by all experiments of the repository.

DVC deletes a stage's outputs before each run. With this cache, a killed stage resumes, an edited prompt regenerates only its
own rows, and stages and experiments share rows. A record's key covers everything that affects the reply.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from character.core import models
from character.core.errors import UserError
from character.core.safe_text import print_text

KEYS_PER_QUERY = 500
LOCK_TIMEOUT = 60.0  # seconds for which a lock of another process is waited for
SAVE_TIMEOUT = 1.0  # the same while replies are generated, which the wait would hold up
SQLITE_REMEDIES = {  # by SQLite's primary error codes
    sqlite3.SQLITE_FULL: "free some space",
    sqlite3.SQLITE_IOERR: "free some space, or check the disk",
    sqlite3.SQLITE_READONLY: "make the directory writable",
    sqlite3.SQLITE_CANTOPEN: "make the directory writable",
    sqlite3.SQLITE_BUSY: "wait for the other process that uses it, or end it",
    sqlite3.SQLITE_LOCKED: "wait for the other process that uses it, or end it",
}


def default_cache_path() -> Path:
    return models.original_repository() / ".cache" / "samples" / "samples.sqlite"


def reply_key(**inputs) -> str:
    """Return the hash of everything that affects one reply."""
    return _bytes_sha256(json.dumps(inputs, sort_keys=True, ensure_ascii=False).encode())


class ReplyCache:
    """Records by key in SQLite, in WAL mode: several processes can read and write at once.

    A cache on a read-only disk can be read.

    Raises:
        UserError: the file is damaged or locked, or cannot be written.
    """

    def __init__(self, path: Path | None = None):
        self.damaged = 0
        self._path = path or default_cache_path()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self._path.parent}: {error.strerror}; make a directory here that can be written.") from None
        with self._explain_errors():
            self._db = self._open_database()

    def _open_database(self) -> sqlite3.Connection:
        try:
            database = self._connect("rwc")
            database.execute("PRAGMA journal_mode=WAL")
            # Without a sync for each reply, only a failure of power can lose what was stored, never the end of a process.
            database.execute("PRAGMA synchronous=NORMAL")
            database.execute("CREATE TABLE IF NOT EXISTS samples (key TEXT PRIMARY KEY, row TEXT, sha256 TEXT, made REAL)")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_CANTOPEN or not self._path.exists():
                raise
            # Where SQLite cannot create its files next to this one, nobody else writes to it either.
            database = self._connect("ro&immutable=1")
        database.text_factory = bytes  # a damaged text need not be UTF-8
        return database

    def _connect(self, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(f"{self._path.resolve().as_uri()}?mode={mode}", uri=True, timeout=LOCK_TIMEOUT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._db.close()

    def get(self, keys: Sequence[str]) -> dict[str, dict]:
        """Return the intact records of `keys`; damaged ones are omitted and counted in `damaged`."""
        records = {}
        for start in range(0, len(keys), KEYS_PER_QUERY):
            batch = keys[start : start + KEYS_PER_QUERY]
            marks = ", ".join("?" * len(batch))
            with self._explain_errors():
                rows = self._db.execute(f"SELECT key, row, sha256 FROM samples WHERE key IN ({marks})", batch).fetchall()
            for name, row, digest in rows:
                if _bytes_sha256(row) == digest.decode(errors="replace"):
                    records[name.decode()] = json.loads(row)
                else:
                    self.damaged += 1
        return records

    def put(self, records: Iterable[tuple[str, dict]]) -> None:
        """Store records in one transaction, all or none."""
        with self._explain_errors():
            self._put_rows(records)

    def _put_rows(self, records: Iterable[tuple[str, dict]]) -> None:
        now = time.time()
        rows = [(name, text := json.dumps(row, ensure_ascii=False), _bytes_sha256(text.encode()), now) for name, row in records]
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO samples VALUES (?, ?, ?, ?)", rows)

    def count_records(self, older_than: float = 0.0) -> int:
        """Return the number of records that are more than `older_than` seconds old."""
        with self._explain_errors():
            return self._db.execute("SELECT count(*) FROM samples WHERE made <= ?", (time.time() - older_than,)).fetchone()[0]

    def delete_records(self, older_than: float = 0.0) -> int:
        """Delete the records that are more than `older_than` seconds old, shrink the file, and return their number."""
        with self._explain_errors():
            with self._db:
                gone = self._db.execute("DELETE FROM samples WHERE made <= ?", (time.time() - older_than,)).rowcount
            self._db.execute("VACUUM")
        return gone

    def size_in_bytes(self) -> int:
        """Return the size of the file and of SQLite's files next to it, in bytes."""
        return sum(path.stat().st_size for path in self._path.parent.glob(f"{self._path.name}*"))

    @contextmanager
    def save_at_once(self) -> Iterator[Callable[[str, dict], None]]:
        """Yield a function that stores one record; while another process locks the file, records are held until the end.

        If the body fails, its error is raised, and records that cannot be stored are printed.
        """
        held: list[tuple[str, dict]] = []

        def save(name: str, row: dict) -> None:
            held.append((name, row))
            try:
                self._put_rows(held)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
            else:
                held.clear()

        with self._explain_errors():
            self._set_lock_timeout(SAVE_TIMEOUT)
            try:
                yield save
            except BaseException:
                with suppress(sqlite3.Error):
                    self._put_rows(held)
                    held.clear()
                if held:
                    print_text(f"{self._path}: the last {len(held)} replies could not be stored.")
                raise
            self._set_lock_timeout(LOCK_TIMEOUT)
            self._put_rows(held)

    def _set_lock_timeout(self, seconds: float) -> None:
        self._db.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        """Turn SQLite's errors into UserErrors with a remedy."""
        try:
            yield
        except sqlite3.OperationalError as error:
            remedy = SQLITE_REMEDIES.get(error.sqlite_errorcode & 0xFF)
            if remedy is None:
                raise
            raise UserError(f"{self._path}: {error}; {remedy}, and run again. Stored replies are kept.") from None
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{self._path}: {error}; delete the directory {self._path.parent} and run again, which costs only time."
            ) from None


def _bytes_sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
