//! The tables, and the triggers that do what a write asks for.
//!
//! A write is one `INSERT` of its steps into the view `aspen_steps`, whose triggers run them in order.
//! One statement can both carry conditions and return the revision that it was applied at, which a
//! transaction of several statements cannot: Hiqlite returns nothing but counts for it.
//!
//! Names of tables and columns must stay stable: people read them with SQL, and they are on disk. To read
//! them is safe; to change them past the view would leave the revision behind.
//!
//! # Tiger Style
//! The trigger of a session forgets those used longest ago once there are more than [`SESSIONS_MAX_COUNT`] of
//! them, or their replies are larger than [`SESSION_REPLIES_MAX_BYTES`], a tenth at a time: to find them takes
//! a look at all.

use crate::limits::{SESSION_REPLIES_MAX_BYTES, SESSIONS_MAX_COUNT};

/// Sets `key` to `operand`; `number` is the lease. It must stay stable, as the next ones.
pub(super) const STEP_PUT: i64 = 1;
/// Deletes the keys from `key` on up to `operand`.
pub(super) const STEP_DELETE: i64 = 2;
/// Deletes the keys from `key` on.
pub(super) const STEP_DELETE_FROM: i64 = 3;
/// Remembers for session `key` that its write `number` was answered with `operand`.
pub(super) const STEP_SESSION: i64 = 4;

/// Sessions that are left when some are forgotten.
const SESSIONS_KEPT_COUNT: u64 = SESSIONS_MAX_COUNT / 10 * 9;

/// Replies that are left then, in bytes.
const SESSION_REPLIES_KEPT_BYTES: u64 = SESSION_REPLIES_MAX_BYTES / 10 * 9;

/// What a statement's error says where the tables were never made.
pub(super) const NO_TABLES: &str = "no such table: aspen_";

/// Makes whatever is missing. Each statement can be run again.
pub(super) fn schema() -> String {
    format!(
        "
CREATE TABLE IF NOT EXISTS aspen_head (
    slot        INTEGER NOT NULL PRIMARY KEY CHECK (slot = 0),
    revision    INTEGER NOT NULL,
    forgotten   INTEGER NOT NULL,
    sessions    INTEGER NOT NULL,
    reply_bytes INTEGER NOT NULL
);
INSERT OR IGNORE INTO aspen_head VALUES (0, 0, 0, 0, 0);

CREATE TABLE IF NOT EXISTS aspen_kv (
    key             BLOB    NOT NULL PRIMARY KEY CHECK (typeof(key) = 'blob'),
    value           BLOB    NOT NULL CHECK (typeof(value) = 'blob'),
    create_revision INTEGER NOT NULL,
    mod_revision    INTEGER NOT NULL,
    version         INTEGER NOT NULL,
    lease           INTEGER NOT NULL
);

CREATE TABLE IF NOT EXISTS aspen_sessions (
    id       BLOB    NOT NULL PRIMARY KEY,
    sequence INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    reply    BLOB    NOT NULL
);
CREATE INDEX IF NOT EXISTS aspen_sessions_by_use ON aspen_sessions (revision);

CREATE VIEW IF NOT EXISTS aspen_steps AS
    SELECT 0 AS kind, x'' AS key, x'' AS operand, 0 AS number, 0 AS revision WHERE 0;

CREATE TRIGGER IF NOT EXISTS aspen_put INSTEAD OF INSERT ON aspen_steps WHEN NEW.kind = {STEP_PUT} BEGIN
    INSERT INTO aspen_kv VALUES (NEW.key, NEW.operand, NEW.revision, NEW.revision, 1, NEW.number)
        ON CONFLICT (key) DO UPDATE SET
            value = excluded.value, mod_revision = excluded.mod_revision,
            version = version + 1, lease = excluded.lease;
    UPDATE aspen_head SET revision = NEW.revision;
END;

CREATE TRIGGER IF NOT EXISTS aspen_delete INSTEAD OF INSERT ON aspen_steps
WHEN NEW.kind = {STEP_DELETE} BEGIN
    DELETE FROM aspen_kv WHERE key >= NEW.key AND key < NEW.operand;
    UPDATE aspen_head SET revision = NEW.revision;
END;

CREATE TRIGGER IF NOT EXISTS aspen_delete_from INSTEAD OF INSERT ON aspen_steps
WHEN NEW.kind = {STEP_DELETE_FROM} BEGIN
    DELETE FROM aspen_kv WHERE key >= NEW.key;
    UPDATE aspen_head SET revision = NEW.revision;
END;

CREATE TRIGGER IF NOT EXISTS aspen_session INSTEAD OF INSERT ON aspen_steps
WHEN NEW.kind = {STEP_SESSION} BEGIN
    UPDATE aspen_head SET
        sessions = sessions + NOT EXISTS (SELECT 1 FROM aspen_sessions WHERE id = NEW.key),
        reply_bytes = reply_bytes + length(NEW.operand)
            - coalesce((SELECT length(reply) FROM aspen_sessions WHERE id = NEW.key), 0);
    INSERT INTO aspen_sessions VALUES (NEW.key, NEW.number, NEW.revision, NEW.operand)
        ON CONFLICT (id) DO UPDATE SET
            sequence = excluded.sequence, revision = excluded.revision, reply = excluded.reply;
    UPDATE aspen_head SET forgotten = max(forgotten, coalesce((
        SELECT max(revision) FROM (
            SELECT revision, row_number() OVER newest AS place, sum(length(reply)) OVER newest AS bytes
            FROM aspen_sessions WINDOW newest AS (ORDER BY revision DESC ROWS UNBOUNDED PRECEDING)
        ) WHERE place > {SESSIONS_KEPT_COUNT} OR bytes > {SESSION_REPLIES_KEPT_BYTES}
    ), 0)) WHERE sessions > {SESSIONS_MAX_COUNT} OR reply_bytes > {SESSION_REPLIES_MAX_BYTES};
    DELETE FROM aspen_sessions
        WHERE revision <= (SELECT forgotten FROM aspen_head
            WHERE sessions > {SESSIONS_MAX_COUNT} OR reply_bytes > {SESSION_REPLIES_MAX_BYTES});
    UPDATE aspen_head SET
        sessions = (SELECT count(*) FROM aspen_sessions),
        reply_bytes = (SELECT coalesce(sum(length(reply)), 0) FROM aspen_sessions)
        WHERE sessions > {SESSIONS_MAX_COUNT} OR reply_bytes > {SESSION_REPLIES_MAX_BYTES};
END;
"
    )
}
