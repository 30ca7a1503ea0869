"""The reply cache: one record per generated reply, separate from DVC's cache and shared by all experiments of the repository.

DVC deletes a stage's outputs before each run. With this cache, a killed stage resumes, an edited prompt regenerates only its
own rows, and stages and experiments share rows. A record's key covers everything that affects the reply.
"""

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from character.core.errors import UserError

SAVE_INTERVAL = 2.0  # seconds
KEYS_PER_QUERY = 500


def default_cache_path() -> Path:
    # DVC_ROOT is the original repository even if an experiment runs in a temporary copy of it.
    return Path(os.environ.get("DVC_ROOT", ".")) / ".cache" / "samples" / "samples.sqlite"


def reply_key(**inputs) -> str:
    """Return the hash of everything that affects one reply."""
    return _bytes_sha256(json.dumps(inputs, sort_keys=True, ensure_ascii=False).encode())


class ReplyCache:
    """Records by key in SQLite, in WAL mode: several processes can read and write at once."""

    def __init__(self, path: Path | None = None):
        path = path or default_cache_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.damaged = 0
        self._path = path
        self._db = sqlite3.connect(path, timeout=60)
        self._db.text_factory = bytes  # a damaged text need not be UTF-8
        with self._report_corruption():
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("CREATE TABLE IF NOT EXISTS samples (key TEXT PRIMARY KEY, row TEXT, sha256 TEXT, made REAL)")

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
            with self._report_corruption():
                rows = self._db.execute(f"SELECT key, row, sha256 FROM samples WHERE key IN ({marks})", batch).fetchall()
            for name, row, digest in rows:
                if _bytes_sha256(row) == digest.decode(errors="replace"):
                    records[name.decode()] = json.loads(row)
                else:
                    self.damaged += 1
        return records

    def put(self, records: Iterable[tuple[str, dict]]) -> None:
        """Store records in one transaction, all or none."""
        now = time.time()
        rows = [(name, text := json.dumps(row, ensure_ascii=False), _bytes_sha256(text.encode()), now) for name, row in records]
        with self._report_corruption(), self._db:
            self._db.executemany("INSERT OR REPLACE INTO samples VALUES (?, ?, ?, ?)", rows)

    def count_records(self, older_than: float = 0.0) -> int:
        """Return the number of records that are more than `older_than` seconds old."""
        with self._report_corruption():
            return self._db.execute("SELECT count(*) FROM samples WHERE made <= ?", (time.time() - older_than,)).fetchone()[0]

    def delete_records(self, older_than: float = 0.0) -> int:
        """Delete the records that are more than `older_than` seconds old, shrink the file, and return their number."""
        with self._report_corruption():
            with self._db:
                gone = self._db.execute("DELETE FROM samples WHERE made <= ?", (time.time() - older_than,)).rowcount
            self._db.execute("VACUUM")
        return gone

    def size_in_bytes(self) -> int:
        """Return the size of the file and of SQLite's files next to it, in bytes."""
        return sum(path.stat().st_size for path in self._path.parent.glob(f"{self._path.name}*"))

    @contextmanager
    def save_periodically(self) -> Iterator[Callable[[str, dict], None]]:
        """Yield a function that stores records in batches: a kill loses at most two seconds of them, an error none."""
        held: list[tuple[str, dict]] = []
        last = time.monotonic()

        def save(name: str, row: dict) -> None:
            nonlocal last
            held.append((name, row))
            if time.monotonic() - last > SAVE_INTERVAL:
                self.put(held)
                held.clear()
                last = time.monotonic()

        try:
            yield save
        finally:
            self.put(held)

    @contextmanager
    def _report_corruption(self) -> Iterator[None]:
        """Turn a damaged file into a UserError that says how to remove it."""
        try:
            yield
        except sqlite3.OperationalError:  # locked, or no space left
            raise
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{self._path}: {error}; delete the directory {self._path.parent} and run again, which costs only time."
            ) from None


def _bytes_sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
