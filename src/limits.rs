//! Every bound of Aspen, in one place, the unit last in its name.
//!
//! A bound says why it has its value, never who uses it. Relations between bounds are checked when
//! the crate compiles.

/// Longest key. The same as etcd's recommendation; a key is in every index page it touches.
pub const KEY_MAX_BYTES: usize = 4 * 1024;

/// Longest encoded command, all its operations together. A log entry is one redb value, and redb
/// slows down several times per byte above this size.
pub const COMMAND_MAX_BYTES: usize = 1024 * 1024;

/// What a command needs beside one value: its key, the framing, the session.
pub const COMMAND_OVERHEAD_MAX_BYTES: usize = 8 * 1024;

/// Longest value: one put must fit into a command.
pub const VALUE_MAX_BYTES: usize = COMMAND_MAX_BYTES - COMMAND_OVERHEAD_MAX_BYTES;

/// Operations in one branch of a transaction, and comparisons in front of them.
pub const TXN_OPS_MAX_COUNT: usize = 128;

/// Key bytes and value bytes that the reads of one transaction may return together. The reply is
/// kept in the session table, so it must stay small; reads beyond it answer `more`.
pub const TXN_READ_MAX_BYTES: usize = 1024 * 1024;

/// Keys that one delete-prefix removes. Applying a command must not stall the ones behind it.
pub const DELETE_PREFIX_MAX_KEYS: usize = 10_000;

/// Keys and values that the deletes of one transaction remove, in bytes. Each value is kept in the
/// history until it is compacted, so a delete writes as much as it removes.
pub const DELETE_PREFIX_MAX_BYTES: usize = 64 * 1024 * 1024;

/// What a key found costs in a reply beside its bytes: revisions, version, lease, framing. Counted,
/// so that many tiny keys cannot make a reply many times larger than its bound.
pub const KV_OVERHEAD_BYTES: usize = 64;

/// Keys in one page of a range read.
pub const RANGE_MAX_KEYS: usize = 10_000;

/// Bytes (keys and values) in one page of a range read. A read transaction pins old pages, so a page
/// must be quick to take.
pub const RANGE_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Undo records that are gathered before they are written, in bytes.
pub const UNDO_BUFFER_MAX_BYTES: usize = 1024 * 1024;

/// Undo records that one compaction command drops. A larger compaction runs in several commands.
pub const COMPACT_STEP_MAX_RECORDS: usize = 1_000;

/// Revisions of history kept by default; older ones are compacted.
pub const HISTORY_DEFAULT_REVISIONS: u64 = 100_000;

/// Sessions remembered. The least recently used one is forgotten first.
pub const SESSIONS_MAX_COUNT: u64 = 10_000;

/// Encoded replies remembered by all sessions together.
pub const SESSION_REPLIES_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Entries of one log read or one append-entries message, in bytes. It stays well below the 16 MiB
/// that a message of the wire protocol may have.
pub const APPEND_BATCH_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Entries of one append-entries message.
pub const APPEND_BATCH_MAX_ENTRIES: u64 = 1_024;

/// Log entries kept in memory behind the newest one, so that followers and apply need no disk read.
pub const LOG_TAIL_MAX_BYTES: usize = 16 * 1024 * 1024;

/// Writes taken together into one log transaction, in bytes.
pub const LOG_BATCH_MAX_BYTES: usize = 8 * 1024 * 1024;

/// Writes that wait for the log's disk, in bytes. Further appends wait: a disk that stalls must slow
/// Raft down, not fill the memory.
pub const LOG_QUEUE_MAX_BYTES: usize = 64 * 1024 * 1024;

/// Purged entries deleted in one log transaction. The appends in the same transaction wait for it.
pub const LOG_PURGE_STEP_MAX_ENTRIES: u64 = 512;

/// Time after which a newer committed id is written although nothing else is. Until then it is only
/// known to be higher after a restart, once a leader says so.
pub const COMMITTED_SAVE_INTERVAL_MS: u64 = 1_000;

/// Page cache of the log, if the state's is not smaller. Only its end is written and read again, and a little
/// of its beginning when it is purged: twice a batch, of which half the cache may wait to be written.
pub const LOG_CACHE_MAX_BYTES: u64 = 2 * LOG_BATCH_MAX_BYTES as u64;

/// Page cache of the metadata, which fits into a few pages.
pub const METADATA_CACHE_BYTES: usize = 1024 * 1024;

/// Peers remembered across restarts. Far above any cluster; a list of strangers must not fill a disk.
pub const PEERS_MAX_COUNT: usize = 1_024;

/// Keys of removed members that the cluster keeps out; beyond that the one that was removed first is forgotten.
/// A cluster that replaces a member every day needs three years for that.
pub const FORMER_MEMBERS_MAX_COUNT: usize = 1_024;

/// Entries applied in one state transaction.
pub const APPLY_BATCH_MAX_ENTRIES: usize = 4_096;

/// Bytes of commands applied in one state transaction.
pub const APPLY_BATCH_MAX_BYTES: usize = 8 * 1024 * 1024;

/// Entries of a batch that is applied without a thread of its own, if they only set keys. To set one takes
/// some ten microseconds, about as long as to wake a thread up, and other tasks wait for that long.
pub const APPLY_AT_ONCE_MAX_ENTRIES: usize = 32;

/// Bytes of the commands of such a batch.
pub const APPLY_AT_ONCE_MAX_BYTES: usize = 32 * 1024;

/// Longest time between two durable checkpoints of the state while it changes. What is newer is
/// rebuilt from the log at start.
pub const CHECKPOINT_INTERVAL_MS: u64 = 5_000;

/// Applied command bytes after which a checkpoint is made early.
pub const CHECKPOINT_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Time that a checkpoint waits for the log to be on disk up to the applied state. It holds up
/// applying meanwhile; it gives up and comes back later if the disk is slower.
pub const CHECKPOINT_FLUSH_WAIT_MS: u64 = 1_000;

/// Time that a snapshot waits for the same. A disk that takes longer is broken.
pub const SNAPSHOT_FLUSH_WAIT_MS: u64 = 30_000;

/// Pause between two looks at the flushed log, a little less than an fsync takes.
pub const FLUSH_POLL_INTERVAL_MS: u64 = 1;

/// Page cache of the state.
pub const CACHE_DEFAULT_BYTES: u64 = 128 * 1024 * 1024;

/// Part of the disk, as a divisor, that is kept free by default: room for deletes, which write as much
/// as they remove, for compaction, and for what was accepted before the disk was seen to be full.
pub const DISK_RESERVE_DIVISOR: u64 = 8;

/// Smallest reserve by default, where that is no more than a quarter of the disk. A write of the largest
/// size grows the files by some megabytes.
pub const DISK_RESERVE_DEFAULT_MIN_BYTES: u64 = 16 * 1024 * 1024;

/// Largest reserve by default. It holds the largest command several times over; more would only be
/// withheld from the data.
pub const DISK_RESERVE_DEFAULT_MAX_BYTES: u64 = 1024 * 1024 * 1024;

/// Smallest reserve that can be set. Below it one write could use all of it up.
pub const DISK_RESERVE_MIN_BYTES: u64 = 8 * 1024 * 1024;

/// Largest reserve that can be set. A number above it is taken for a slip of the unit.
pub const DISK_RESERVE_MAX_BYTES: u64 = 1024 * 1024 * 1024 * 1024;

/// Part of the reserve, as a divisor, below which nothing is taken that could be left: not even
/// deletes, and no entries from a leader. What is left then is for votes, checkpoints and a restart.
pub const DISK_LAST_RESERVE_DIVISOR: u64 = 4;

/// How much room beyond the reserve, as its divisor, ends the refusal of writes. The two marks lie
/// apart so that a disk at the brink is not full and well in turn.
pub const DISK_RECOVERED_DIVISOR: u64 = 4;

/// Disk space that one byte of a command takes up at most, before anything is compacted: in the log and
/// in the state, each in pages of up to twice the size, and once more while a page is copied.
pub const DISK_BYTES_PER_COMMAND_BYTE: u64 = 6;

/// The same for each byte of an old value that a command removes: it is kept in the history, in pages of
/// up to twice the size, and the page that it leaves is copied.
pub const DISK_BYTES_PER_REMOVED_BYTE: u64 = 3;

/// The most by which one command grows the files: all of it new, and as much removed as one transaction
/// can, by puts over the longest values and by deletes.
pub const COMMAND_GROWTH_MAX_BYTES: u64 = COMMAND_MAX_BYTES as u64 * DISK_BYTES_PER_COMMAND_BYTE
    + (TXN_OPS_MAX_COUNT * VALUE_MAX_BYTES + DELETE_PREFIX_MAX_BYTES) as u64 * DISK_BYTES_PER_REMOVED_BYTE;

/// State that is read once only to learn whether a snapshot of it fits onto the disk. Applying waits for
/// that, a second or two.
pub const SNAPSHOT_MEASURE_MAX_BYTES: u64 = 1024 * 1024 * 1024;

/// Disk space that one byte of a snapshot takes until it is installed: itself, and a database of it.
pub const DISK_BYTES_PER_SNAPSHOT_BYTE: u64 = 3;

/// What may be let in, by the most that it takes up, before the disk is looked at again: others fill it,
/// too. A look costs a microsecond.
pub const DISK_LOOK_EVERY_BYTES: u64 = 256 * 1024;

/// Pause between two looks at the disk while nothing is written. In between, what is written is counted.
pub const DISK_WATCH_INTERVAL_MS: u64 = 500;

/// Time for a sync that is too long to be normal, on any disk that is in order.
pub const SYNC_SLOW_MS: u64 = 1_000;

/// Time of one sync after which a leader hands over. Below the time that a client waits for its write,
/// above a hiccup of a busy disk and far above an election.
pub const SYNC_STALLED_MS: u64 = 3_000;

/// Time after which a write to the state counts as one that waits for the disk: one does that makes the file larger.
/// Reads leave the threads of the runtime alone then, as they may wait with it.
pub const STATE_WRITE_WAITS_MS: u64 = 10;

/// Threads of the runtime, at least, however few processors there are: a write to the state that waits for the disk
/// holds one.
pub const RUNTIME_THREADS_MIN_COUNT: usize = 2;

/// Time that a disk counts as stalled after a sync took that long. A disk that fails rarely does so once.
pub const DISK_COOL_DOWN_MS: u64 = 30_000;

/// Pause between two reports of a node whose disk is not well to the leader.
pub const DISK_REPORT_INTERVAL_MS: u64 = 1_000;

/// Time that such a report counts: a few reports may be lost.
pub const DISK_REPORT_VALID_MS: u64 = 4_000;

/// Time that entries from a leader wait for room on a disk that is all but full, before they are refused
/// and sent again. Below the time after which the leader gives the connection up.
pub const DISK_APPEND_WAIT_MS: u64 = 2_000;
/// Bytes that the scrub reads in one step. A read transaction lives as long as a step, and pins old pages
/// for as long.
pub const SCRUB_STEP_MAX_BYTES: usize = 1024 * 1024;

/// Time after which a step of the scrub ends early: on a slow disk a mebibyte takes long.
pub const SCRUB_STEP_MAX_MS: u64 = 100;

/// Bytes that the scrub reads in a second. A tenth of the slowest disk in use, and a few percent of one
/// core; a store of 1 GiB takes about a quarter of an hour.
pub const SCRUB_MAX_BYTES_PER_SECOND: u64 = 4 * 1024 * 1024;

/// The same in the first pass, which is the first look at every page of a state that was too large to be
/// checked at the start: half a minute for a GiB.
pub const SCRUB_FIRST_MAX_BYTES_PER_SECOND: u64 = 32 * 1024 * 1024;

/// Pause between two passes of the scrub. Damage is rare, and a restart checks everything anyway.
pub const SCRUB_INTERVAL_S: u64 = 6 * 60 * 60;

/// Time from the start to the first pass, which finds what an open without a full check has left. By then
/// the node has caught up.
pub const SCRUB_FIRST_AFTER_S: u64 = 60;

/// Shortest pause between two passes that can be set.
pub const SCRUB_MIN_INTERVAL_S: u64 = 1;

/// Longest pause between two passes that can be set: a month, after which hardly anything would be
/// found in time.
pub const SCRUB_MAX_INTERVAL_S: u64 = 31 * 24 * 60 * 60;

/// Pieces of damage that a check of a data directory lists for one file. The first few say what happened.
pub const VERIFY_FINDINGS_MAX_COUNT: usize = 100;

/// Damaged states kept beside a repaired one.
pub const REPAIR_KEPT_MAX_COUNT: u32 = 1_000;

/// Payload of one chunk of a snapshot file, the unit of its checksums. To gather one takes less than the
/// system's time slice: whoever writes meanwhile waits for the processor no longer than that.
pub const SNAPSHOT_CHUNK_MAX_BYTES: usize = 256 * 1024;

/// Longest chunk that is read from a snapshot file: a record can be larger than a chunk should be, and
/// chunks were up to 1 MiB before. Anything above is damage, and not worth an allocation.
pub const SNAPSHOT_CHUNK_READ_MAX_BYTES: usize = 2 * 1024 * 1024;

/// What a step of a restore needs beside the rows of its chunk: ids, numbers, framing.
pub const RESTORE_STEP_OVERHEAD_BYTES: usize = 1024;

/// How far a restore moves the revision on, beyond the newer of the store's and the backup's. The cluster of
/// the backup went on after it was made, and the store does until the restore is committed: no revision that
/// anyone has seen may come again. It is days of writes at any rate, and the millionth part of the whole
/// numbers that every JSON reader takes.
pub const RESTORE_REVISION_GAP: u64 = 1_000_000_000;

/// As far as a restore moves the revision on. No writes lead there in the life of a cluster, so a backup that
/// would is damaged or made up; and the writes that follow have as much room again below
/// [`BACKUP_REVISION_MAX`].
pub const RESTORE_REVISION_MAX: u64 = 1 << 61;

/// Highest revision, and highest version of a key, that is taken from a backup. Both grow with each write, and
/// must never come to the end of their 64 bits.
pub const BACKUP_REVISION_MAX: u64 = 1 << 62;

/// Backups that one node makes at a time. Each reads all of the state and takes as much disk.
pub const BACKUPS_MAX_COUNT: usize = 1;

/// Time in which the receiver of a backup must take one piece of it.
pub const BACKUP_PIECE_TIMEOUT_MS: u64 = 10_000;

/// Rows of a discarded table that are removed in one step. Writes wait for a step, a few milliseconds.
pub const SWEEP_STEP_MAX_ROWS: usize = 256;

/// Pause between two such steps: most of the time is left to writes.
pub const SWEEP_PAUSE_MS: u64 = 20;

/// Work between two pauses while a file is copied or a snapshot is made. The pause is as long as the
/// work was, so that writes get half of the disk and of the processors.
pub const COPY_STEP_BYTES: usize = 4 * 1024 * 1024;

/// Smallest such step: below it a sync takes its time whatever it carries.
pub const COPY_STEP_MIN_BYTES: usize = 256 * 1024;

/// Time that one step of a snapshot should take. A write waits for the disk no longer than a step, and for
/// a processor less than the system's time slice, which is some 3 ms.
pub const COPY_STEP_TARGET_US: u64 = 1_500;

/// Time for which a copy of the state pauses at all. It reads one old view, none of whose pages can be
/// used again meanwhile: the file grows with every write until the copy ends.
pub const COPY_PAUSES_MAX_MS: u64 = 10_000;

/// Time between two looks whether the file of the state is far larger than what is in it.
pub const SHRINK_CHECK_INTERVAL_MS: u64 = 10 * 60 * 1_000;

/// Smallest file that is copied into a smaller one. Below it there is nothing worth the work.
pub const SHRINK_MIN_BYTES: u64 = 64 * 1024 * 1024;

/// How many times the bytes of its rows a file may have. Random inserts leave pages half empty, and the
/// file grows in large steps, so up to twice is normal; a copied file must not be due again soon.
pub const SHRINK_MIN_RATIO: u64 = 3;

/// Room on the disk that a copy leaves free beside its own.
pub const SHRINK_FREE_MIN_BYTES: u64 = 256 * 1024 * 1024;

/// Commands applied while the state is copied, which are kept in memory to be applied to the copy. More
/// than come in the time of a copy; above it the copy is given up.
pub const SHRINK_BEHIND_MAX_BYTES: usize = 64 * 1024 * 1024;

/// Commands that may be left when the copy takes the file's place. Writes wait while they are applied.
pub const SHRINK_LAST_STEP_BYTES: usize = 256 * 1024;

/// Rounds of applying to the copy what came during the round before. Each is far shorter than the one
/// before it, unless the state changes faster than the disk takes it.
pub const SHRINK_ROUNDS_MAX_COUNT: u32 = 20;

/// Largest file of the state whose every page is checked when it is opened. A disk that has nothing of
/// it in memory reads about 100 MB a second of scattered pages, and a start must not take many seconds.
/// Larger files are opened by their last checkpoint, and checked while the node runs.
pub const STATE_CHECK_AT_OPEN_MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Bytes of commands applied after which a snapshot is made. What is kept of the log is checked at each
/// start, and sent to followers that were away.
pub const SNAPSHOT_EVERY_BYTES: u64 = 128 * 1024 * 1024;

/// Fewest bytes between two snapshots that can be set: a snapshot is a copy of everything.
pub const SNAPSHOT_EVERY_MIN_BYTES: u64 = 1024 * 1024;

/// Most bytes between two snapshots that can be set. All of it stands in the log.
pub const SNAPSHOT_EVERY_MAX_BYTES: u64 = 16 * 1024 * 1024 * 1024;

/// Time between two looks at how many bytes were applied since the last snapshot.
pub const SNAPSHOT_CHECK_INTERVAL_MS: u64 = 1_000;

/// Pause between two looks whether there is room again for a snapshot that ran out of it.
pub const SNAPSHOT_ROOM_CHECK_INTERVAL_MS: u64 = 5_000;

/// Bytes of log entries kept although a snapshot covers them, for the same followers.
pub const LOG_KEPT_BEHIND_SNAPSHOT_BYTES: u64 = 64 * 1024 * 1024;

/// Applied entries after which a snapshot is made.
pub const SNAPSHOT_EVERY_ENTRIES: u64 = 20_000;

/// Log entries kept although a snapshot covers them, so that a follower which was briefly away needs
/// no snapshot.
pub const LOG_KEPT_BEHIND_SNAPSHOT_ENTRIES: u64 = 5_000;

/// Lag after which a follower is sent a snapshot rather than log entries. Above the snapshot
/// interval, or a follower would get one snapshot after the other.
pub const REPLICATION_LAG_MAX_ENTRIES: u64 = 40_000;

/// Time that replication waits where the entries that it was to read are purged. Longer than
/// [`STREAM_IDLE_MS`]: the stream is given up first, and begins anew with a snapshot.
pub const PURGED_READ_WAIT_MS: u64 = 20_000;

/// Time after which a stream of log entries that has nothing to do is ended. It is opened again when
/// there is something to send.
pub const STREAM_IDLE_MS: u64 = 5_000;

/// Time after which a follower ends such a stream, if the leader has not. Heartbeats come far more often.
pub const STREAM_ABANDONED_MS: u64 = STREAM_IDLE_MS * 2;

/// Time for entries that a snapshot covers to get on disk before the snapshot is acknowledged.
pub const SNAPSHOT_ACK_WAIT_MS: u64 = 20_000;

/// One message of the wire protocol, whichever it is.
pub const WIRE_MESSAGE_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Piece of a snapshot on the wire.
pub const WIRE_SNAPSHOT_PIECE_BYTES: usize = 256 * 1024;

/// Time for the next piece of a snapshot to arrive. As long as the leader waits for one to be taken.
pub const WIRE_SNAPSHOT_PIECE_TIMEOUT_MS: u64 = 15_000;

/// Streams that one peer may have open at a time on one connection.
pub const WIRE_STREAMS_MAX_COUNT: u32 = 1_024;

/// Forwarded requests, or answers to them, in one message. More than the clients of one node have under way
/// at a time, mostly.
pub const FORWARD_BATCH_MAX_COUNT: usize = 256;

/// Bytes of commands, or of what they read, after which a message takes no further one.
pub const FORWARD_BATCH_MAX_BYTES: usize = 1024 * 1024;

/// Forwarded requests of one node in work at a time. Further ones wait on the way.
pub const FORWARD_RUNNING_MAX_COUNT: usize = HTTP_REQUESTS_MAX_COUNT;

/// Time for a word to get through to a node that is to be handed the leadership. One that takes longer is asked
/// after the others: writes wait meanwhile.
pub const HANDOVER_GREETING_TIMEOUT_MS: u64 = 100;

/// Connections that strangers may have in their handshake at a time.
pub const WIRE_HANDSHAKES_MAX_COUNT: usize = 256;

/// The part of them that one address, or of IPv6 one network, may have. A handshake takes milliseconds, unless
/// somebody leaves it half done.
pub const WIRE_HANDSHAKES_OF_SOURCE_MAX_COUNT: usize = 64;

/// Handshakes at a time that are left for known nodes when strangers have all others.
pub const WIRE_HANDSHAKES_OF_KNOWN_MAX_COUNT: usize = 64;

/// Connections that clients have open at a time. One process has need of one, or of few.
pub const WIRE_CLIENTS_MAX_COUNT: usize = 1_024;

/// Streams that a client may have open at a time on one connection. One carries as many requests as one
/// likes.
pub const WIRE_CLIENT_STREAMS_MAX_COUNT: usize = 4;

/// Requests of one client's stream in work at a time. Further ones wait on the way.
pub const WIRE_CLIENT_RUNNING_MAX_COUNT: usize = 1_024;

/// Requests of all such clients in work at a time; further ones are answered at once.
pub const WIRE_CLIENT_REQUESTS_MAX_COUNT: usize = HTTP_REQUESTS_MAX_COUNT;

/// One message of a client: a batch of requests, the last of them of the largest size.
pub const WIRE_CLIENT_MESSAGE_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Messages of clients whose requests are in work, all of them together. Further ones are not read
/// meanwhile.
pub const WIRE_CLIENT_REQUESTS_MAX_BYTES: usize = HTTP_BODIES_MAX_BYTES;

/// Time for a message that has begun, or is the first on a new stream, to arrive whole.
pub const WIRE_REQUEST_READ_TIMEOUT_MS: u64 = 5_000;

/// Time for a message of answers to be taken. Whoever asked for them has given up before.
pub const WIRE_ANSWER_TIMEOUT_MS: u64 = 10_000;

/// Time to set a connection up: handshake and hello.
pub const WIRE_CONNECT_TIMEOUT_MS: u64 = 3_000;

/// Bytes that a caller may have sent, unread, before it is let in. Its hello has a few hundred.
pub const WIRE_UNKNOWN_WINDOW_BYTES: u32 = 64 * 1024;

/// Bytes that a caller that was let in may have sent, unread, on all streams of a connection. More than a
/// dozen streams can have at a time.
pub const WIRE_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// Streams that a caller may open before it is let in: that of its hello, or of its ticket, and one too many,
/// which shows that it did not wait.
pub const WIRE_UNKNOWN_STREAMS_MAX_COUNT: u32 = 2;

/// Strangers that may be turned away one right after the other, of those from one source. A misconfigured
/// node or client, which tries every few seconds, never gets there.
pub const STRANGERS_OF_SOURCE_MAX_COUNT: u64 = 50;

/// Time after which another one may be. The turning away of five a second costs less than a hundredth of a
/// processor.
pub const STRANGER_SOURCE_INTERVAL_MS: u64 = 200;

/// The same of all strangers together. A handshake takes about a millisecond of a processor, so that many
/// at once cost the nodes a fifth of a second.
pub const STRANGERS_MAX_COUNT: u64 = 200;

/// Time after which another one of all strangers may be turned away. Twenty a second are a few hundredths of
/// a processor, and iroh never forgets some 200 bytes for each new key: 350 MB a day at worst.
pub const STRANGER_INTERVAL_MS: u64 = 50;

/// Sources of strangers, and of those who were let in, that are remembered.
pub const STRANGER_SOURCES_MAX_COUNT: usize = 1_024;

/// Time for which a member must have turned this node away until that is said. One that was away learns who has
/// joined meanwhile within a second.
pub const TURNED_AWAY_SAID_AFTER_MS: u64 = 5_000;

/// Strangers whose attempts are remembered, so that each is logged once in a while and not each time. More
/// at once than an operator would read.
pub const STRANGERS_REMEMBERED_MAX_COUNT: usize = 64;

/// Time between two log lines about the same stranger.
pub const STRANGER_LOG_INTERVAL_MS: u64 = 10_000;

/// Connections to the relay that a node serves, of those who are let in: one of each node and client.
pub const RELAY_GUESTS_MAX_COUNT: usize = 256;

/// Connections to the relay on which nobody was let in yet: such as are proving their key, short ones by which
/// nodes measure the way, and strangers'. All nodes of a cluster may come at once.
pub const RELAY_ARRIVALS_MAX_COUNT: usize = 128;

/// Such connections from one address, or of IPv6 one network. It leaves as many to all others.
pub const RELAY_ARRIVALS_OF_SOURCE_MAX_COUNT: usize = 64;

/// Time for a connection to the relay to prove its key, and for all of them to end at a stop.
pub const RELAY_HANDSHAKE_TIMEOUT_MS: u64 = 5_000;

/// Time between two checks of who is connected to the relay. Changes of the membership are checked at once;
/// this is for tickets, which expire without one.
pub const RELAY_CHECK_INTERVAL_MS: u64 = 10_000;

/// Time between two rounds of questions to the members who else belongs to the cluster. A newcomer that
/// leads is let in by a node that was away within about an election's time; strangers cause no more load.
pub const VOUCHING_INTERVAL_MS: u64 = 1_000;

/// Time without an answer after which the members are asked where a node is. A dial in one network takes a
/// few milliseconds, and a packet that was lost is sent again after a third of a second.
pub const DIAL_SLOW_MS: u64 = 500;

/// Sets of addresses that one dial tries: more would let news of addresses keep a dial from its end.
pub const DIAL_PLACES_MAX_COUNT: usize = 4;

/// Pause before a node that was not reached is told again where this one is. Together with the connect
/// timeout it stays below the time in which a node that moves is to be followed.
pub const HELLO_RETRY_INTERVAL_MS: u64 = 500;

/// Time in which a node that moves is to be followed, in one network.
pub const FOLLOWED_WITHIN_MS: u64 = 5_000;

/// Pause between two looks whether any other node can be reached.
pub const LOST_CHECK_INTERVAL_MS: u64 = 1_000;

/// Time without any other node after which a node says so: long after all that heals by itself.
pub const LOST_AFTER_MS: u64 = 10_000;

/// Pause between two looks at the leader whether the membership says where its nodes are.
pub const WHEREABOUTS_CHECK_INTERVAL_MS: u64 = 1_000;

/// Pause after the membership was told where nodes are. One whose addresses change all the time must not
/// fill the log.
pub const WHEREABOUTS_NOTE_INTERVAL_MS: u64 = 10_000;

/// Join tickets that have not expired yet. Each is a row in the state of every member.
pub const JOIN_TICKETS_MAX_COUNT: usize = 1_024;

/// Longest life of a join ticket. It is a secret, and a month is long for one.
pub const JOIN_TICKET_TTL_MAX_S: u64 = 31 * 24 * 60 * 60;

/// Life of a join ticket by default: enough to bring a machine up.
pub const JOIN_TICKET_TTL_DEFAULT_S: u64 = 60 * 60;

/// Nodes that may come in with one ticket.
pub const JOIN_TICKET_USES_MAX_COUNT: u32 = 1_000;

/// Members whose addresses a join ticket holds. One of them must be up when it is used; a longer ticket is
/// harder to copy.
pub const JOIN_TICKET_MEMBERS_MAX_COUNT: usize = 5;

/// Time for which expired tickets are remembered, so that they are refused as such, and nodes that took one
/// and never came, so that they may still come.
pub const JOIN_REMEMBERED_MS: u64 = 24 * 60 * 60 * 1_000;

/// Strangers with a ticket that are served at a time. A further one is turned away and tries again.
pub const JOIN_RUNNING_MAX_COUNT: usize = 16;

/// A stranger's one message: a secret and some addresses.
pub const JOIN_REQUEST_MAX_BYTES: u64 = 4 * 1024;

/// Time for a new node to be let in, before it ends and says why it was not.
pub const JOIN_TIMEOUT_MS: u64 = 60_000;

/// Pause before a new node asks again.
pub const JOIN_RETRY_INTERVAL_MS: u64 = 500;

/// Pause between two looks of the leader at members that wait for a vote.
pub const PROMOTION_CHECK_INTERVAL_MS: u64 = 500;

/// Time for which a new member must have been caught up and reachable without a break before it gets a
/// vote: one that comes and goes would cost quorum rather than add to it.
pub const PROMOTION_AFTER_MS: u64 = 3_000;

/// Pause between two looks of a node whether the others still let it in.
pub const REMOVAL_CHECK_INTERVAL_MS: u64 = 500;

/// Time after which members that turned this node away are asked once more, before it takes itself for
/// removed: a node that has just joined may be ahead of them.
pub const REMOVAL_ASK_AGAIN_AFTER_MS: u64 = 2_000;

/// Log entries that a member may be behind and count as caught up.
pub const PROMOTION_LAG_MAX_ENTRIES: u64 = 1_000;

/// Pause between two rounds of questions to the other founders of a cluster, until it is founded.
pub const FOUNDING_INTERVAL_MS: u64 = 250;

/// Nodes that found a cluster together. Far above any sensible number of voters.
pub const FOUNDERS_MAX_COUNT: usize = 64;

/// Streams between actors that were opened by members and wait to be taken. Each member opens one at a
/// time.
pub const ACTOR_STREAMS_WAITING_MAX_COUNT: usize = 64;

/// One message between actors. A support bundle is the largest, most of it figures.
pub const ACTOR_MESSAGE_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Time for a new session between the actors of two nodes to become usable: a few round trips.
pub const ACTOR_SESSION_TIMEOUT_MS: u64 = 5_000;

/// Time for an earlier session with the same node to end, before a new one takes its place.
pub const ACTOR_SESSION_END_TIMEOUT_MS: u64 = 1_000;

/// Pause after the first failed attempt to reach the actors of a member, and after a session has ended; it
/// doubles up to the longest.
pub const ACTOR_RECONNECT_MIN_MS: u64 = 100;

/// Longest such pause. A member that comes back is seen again within about this and one connect timeout.
pub const ACTOR_RECONNECT_MAX_MS: u64 = 2_000;

/// Requests that one agent works on at a time; further ones are refused at once.
pub const AGENT_REQUESTS_MAX_COUNT: usize = 64;

/// Requests that one node has under way to the agent of another; further ones are refused at once. What is
/// sent to a node that does not read stays in memory until its connection is given up.
pub const AGENT_CALLS_MAX_COUNT: usize = 64;

/// Time for an agent to say how its node is. All members are asked at once, and the whole answer is to be
/// there within a second.
pub const AGENT_REPORT_TIMEOUT_MS: u64 = 600;

/// Time for an agent to do what takes a moment: an election, a change of the log.
pub const AGENT_CALL_TIMEOUT_MS: u64 = 5_000;

/// Time for an agent to do what takes as long as the data is large: a snapshot, smaller files.
pub const AGENT_SLOW_CALL_TIMEOUT_MS: u64 = 30_000;

/// Time for an election that an agent was asked for to be won: a few round trips and syncs.
pub const AGENT_ELECTION_WAIT_MS: u64 = 2_000;

/// What an agent leaves of that time for its answer to arrive.
pub const AGENT_ANSWER_MARGIN_MS: u64 = 1_000;

/// Logged warnings and errors that are remembered for a support bundle.
pub const RECENT_PROBLEMS_MAX_COUNT: usize = 100;

/// Bytes that are remembered of each of them.
pub const RECENT_PROBLEM_MAX_BYTES: usize = 1_024;

/// Longest log filter that can be set.
pub const LOG_FILTER_MAX_BYTES: usize = 1_024;

/// Addresses that one peer may name for itself.
pub const PEER_ADDRESSES_MAX_COUNT: usize = 16;

/// Longest time a client's request waits inside the cluster, elections included.
pub const REQUEST_TIMEOUT_MS: u64 = 5_000;

/// Pause before a request is tried again inside the cluster, while there is no leader.
pub const REQUEST_RETRY_INTERVAL_MS: u64 = 20;

/// Time for an operation on the membership, a learner's catching up included.
pub const MEMBERSHIP_TIMEOUT_MS: u64 = 30_000;

/// Time for a new member to get near the end of the log. Below that of the whole operation, so that the
/// operation ends with this reason.
pub const CATCH_UP_TIMEOUT_MS: u64 = 20_000;

/// HTTP request body. Base64 in JSON is a third longer than the bytes, escapes are longer still.
pub const HTTP_BODY_MAX_BYTES: usize = 4 * 1024 * 1024;

/// HTTP requests in work at a time; further ones are answered at once.
pub const HTTP_REQUESTS_MAX_COUNT: usize = 4_096;

/// Time for an HTTP request in all, a little above that of the cluster so that its answer comes first.
pub const HTTP_REQUEST_TIMEOUT_MS: u64 = 35_000;

/// HTTP request bodies held at a time, all of them together. Further ones are answered as overload.
pub const HTTP_BODIES_MAX_BYTES: usize = 256 * 1024 * 1024;

/// Bytes of a refused body that are read and thrown away, so that the sender gets to see the refusal
/// rather than a broken connection.
pub const HTTP_DRAIN_MAX_BYTES: usize = 16 * 1024 * 1024;

/// Open HTTP connections. A few more than the requests in work, so that the refusal of a request too
/// many can still be said.
pub const HTTP_CONNECTIONS_MAX_COUNT: usize = HTTP_REQUESTS_MAX_COUNT + 512;

/// Files and sockets that the process must be allowed to have open: all HTTP connections, and room for
/// databases, snapshots, peers and the runtime; and those of the relay, each twice until it is let in.
pub const OPEN_FILES_MIN_COUNT: u64 =
    (HTTP_CONNECTIONS_MAX_COUNT + RELAY_GUESTS_MAX_COUNT + 2 * RELAY_ARRIVALS_MAX_COUNT) as u64 + 256;

/// Time for the head of an HTTP request to arrive whole, and for a kept connection to stay idle.
pub const HTTP_HEADER_TIMEOUT_MS: u64 = 30_000;

/// Time in which the receiver of a reply must take some of it.
pub const HTTP_WRITE_TIMEOUT_MS: u64 = 10_000;

/// Time that one HTTP request spends on a compaction, in steps. What is left then needs another call.
pub const HTTP_COMPACT_TIMEOUT_MS: u64 = 20_000;

/// Bearer token of the HTTP API. Shorter ones can be guessed.
pub const HTTP_TOKEN_MIN_BYTES: usize = 16;

/// Bearer token of the HTTP API. Headers have a bound of their own.
pub const HTTP_TOKEN_MAX_BYTES: usize = 1024;

/// Time for a client to connect to one address: above it the next address is the better bet.
pub const CLIENT_CONNECT_TIMEOUT_MS: u64 = 2_000;

/// Time for one attempt of a read or a write, a little above the node's own so that its answer comes
/// first.
pub const CLIENT_ATTEMPT_TIMEOUT_MS: u64 = 7_000;

/// Time for a client's read or write in all, retries included.
pub const CLIENT_TIMEOUT_MS: u64 = 20_000;

/// Time after which a client gives up while nobody listens at any of its addresses. Above the restart
/// of a node.
pub const CLIENT_ABSENT_TIMEOUT_MS: u64 = 5_000;

/// Time for one attempt of an operation that waits for other nodes, such as a learner's catching up.
pub const CLIENT_SLOW_ATTEMPT_TIMEOUT_MS: u64 = HTTP_REQUEST_TIMEOUT_MS + 1_000;

/// Time for such an operation in all.
pub const CLIENT_SLOW_TIMEOUT_MS: u64 = 45_000;

/// Times that a new write of a forgotten session is sent again with a newer `since`. Sessions are
/// forgotten in the meantime only while thousands of clients write at once.
pub const CLIENT_SINCE_MAX_RETRIES: usize = 5;

/// Pause of a client after its first round over all addresses; it doubles up to the longest.
pub const CLIENT_BACKOFF_MIN_MS: u64 = 20;

/// Longest pause between a client's attempts.
pub const CLIENT_BACKOFF_MAX_MS: u64 = 1_000;

/// Writes that one client has in work at a time. Each needs a session of its own in the cluster.
pub const CLIENT_LANES_MAX_COUNT: usize = 256;

/// Idle time after which a client closes a connection. Below the node's, which closes it otherwise
/// while a request is on its way.
pub const CLIENT_IDLE_TIMEOUT_MS: u64 = 20_000;

/// Reply that a client takes. A full page in base64 is under 6 MiB; its records take as much again.
pub const CLIENT_REPLY_MAX_BYTES: usize = 64 * 1024 * 1024;

/// Time in which a client gets some more of a backup. Above the node's own bound, and above the pause that a
/// slow disk makes there.
pub const CLIENT_BACKUP_PIECE_TIMEOUT_MS: u64 = 30_000;

/// Piece of a backup that is read from its file at a time.
pub const CLI_BACKUP_READ_BYTES: usize = 256 * 1024;

/// Times that a backup opens the file that it is about to write: each time but the last, another backup to the
/// same file ended in between.
pub const CLI_PARTIAL_OPENS_MAX_COUNT: usize = 10;

/// Time for the word that a restore is not to go on. It is a courtesy: the next restore does the same.
pub const CLI_ABORT_TIMEOUT_MS: u64 = 5_000;

/// Time for one operation of a load generator. Above a node's own bound.
pub const BENCH_OPERATION_TIMEOUT_MS: u64 = 10_000;

/// Time for a client of a load generator to connect. Above what a handshake over a relay takes.
pub const BENCH_CONNECT_TIMEOUT_MS: u64 = 10_000;

/// Time in which a node must say what processor time it has used. The load goes on meanwhile, and what came
/// later would be of another time than the one that is measured.
pub const BENCH_FIGURES_TIMEOUT_MS: u64 = 2_000;

/// Page of a node's figures that a load generator takes. It has some ten kilobytes.
pub const BENCH_FIGURES_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Steps in which a client counts what it could not send before the end.
pub const BENCH_LEFT_STEPS_MAX_COUNT: u64 = 100_000;

/// Clients of one load generator: each may be a connection.
pub const BENCH_CLIENTS_MAX_COUNT: usize = 4_096;

/// Connections of a load over iroh where nothing else is said. One carries many requests, so that more
/// would only cost handshakes and keep-alives.
pub const BENCH_IROH_CONNECTIONS_COUNT: usize = 16;

/// Keys that the command line asks for at a time.
pub const CLI_PAGE_KEYS: u64 = 1_000;

/// Heaps of the C library's allocator in one process.
pub const MEMORY_ARENAS_MAX_COUNT: i32 = 4;

/// Pause after an accept that failed for want of file descriptors or memory: the next one would fail as
/// well.
pub const ACCEPT_RETRY_MS: u64 = 100;

/// Times that a part of a node's housekeeping is started again within [`PART_RESTARTS_WINDOW_MS`]. One that fails
/// once more takes the node down.
pub const PART_RESTARTS_MAX_COUNT: usize = 5;

/// Time after which a restart of a part counts no more. A fault that shows once a day is none to go down for.
pub const PART_RESTARTS_WINDOW_MS: u64 = 600_000;

/// Pause before the first restart of a part; it doubles with each further one up to the longest. What made the part
/// fail may pass in the meantime, such as a want of file descriptors.
pub const PART_RESTART_PAUSE_MIN_MS: u64 = 100;

/// Longest pause before a restart of a part.
pub const PART_RESTART_PAUSE_MAX_MS: u64 = 1_000;

/// Time that a stopping node gives to requests in work, and to each of its parts.
pub const STOP_TIMEOUT_MS: u64 = 3_000;

/// Pause between two sentences to systemd about what the node does.
pub const SYSTEMD_STATUS_INTERVAL_MS: u64 = 1_000;

/// A client's name for its request, in the log and in the answer.
pub const REQUEST_ID_MAX_BYTES: usize = 64;

/// Configuration file. A thousand peers fit; a path to something else by mistake does not fill memory.
pub const CONFIG_FILE_MAX_BYTES: u64 = 1024 * 1024;

/// File that holds a key or a token. A token longer than this would not fit into an HTTP header.
pub const SECRET_FILE_MAX_BYTES: u64 = 4 * 1024;

/// Heartbeat interval between nodes on one network, where a round trip is below a few milliseconds.
pub const HEARTBEAT_LAN_INTERVAL_MS: u64 = 200;

/// Election timeout on one network, from and to. Two heartbeats may be lost, and a dead leader is
/// replaced well within two seconds.
pub const ELECTION_LAN_TIMEOUT_MS: (u64, u64) = (500, 800);

/// Heartbeat interval over relays and between sites, where a round trip takes up to 250 ms.
pub const HEARTBEAT_WAN_INTERVAL_MS: u64 = 500;

/// Election timeout over relays and between sites, from and to. A connection that moves to another
/// path is silent for about two seconds, which must not cost a leader its place.
pub const ELECTION_WAN_TIMEOUT_MS: (u64, u64) = (2_500, 5_000);

/// Shortest heartbeat interval that can be set. Below it an idle cluster would be busy with itself.
pub const HEARTBEAT_MIN_INTERVAL_MS: u64 = 10;

/// Longest election timeout that can be set. A cluster is without a leader for as long.
pub const ELECTION_MAX_TIMEOUT_MS: u64 = 60_000;

/// Shortest checkpoint interval that can be set. Each checkpoint is an fsync of the state.
pub const CHECKPOINT_MIN_INTERVAL_MS: u64 = 100;

/// Longest checkpoint interval that can be set. What is newer is replayed at a start.
pub const CHECKPOINT_MAX_INTERVAL_MS: u64 = 600_000;

/// Smallest page cache that can be set: the root pages of every table, a few times.
pub const CACHE_MIN_BYTES: u64 = 1024 * 1024;

/// Largest page cache that can be set. A number above it is taken for a slip of the unit.
pub const CACHE_MAX_BYTES: u64 = 1024 * 1024 * 1024 * 1024;

/// Most revisions of history that can be kept. Their undo records take disk space on every node.
pub const HISTORY_MAX_REVISIONS: u64 = 1_000_000_000;

/// Pause between two tidyings of the collected figures. Samples of histograms pile up until then.
pub const METRICS_UPKEEP_INTERVAL_MS: u64 = 5_000;

/// A file of Hiqlite's log. An entry must fit into one: a command, with the statement around it.
pub const HIQLITE_WAL_BYTES: u32 = 8 * 1024 * 1024;

/// Applied entries after which Hiqlite makes a snapshot.
pub const HIQLITE_SNAPSHOT_EVERY_ENTRIES: u64 = 10_000;

/// Heartbeat interval of embedded Hiqlite nodes. An append must be answered within one, whatever it carries.
pub const HIQLITE_HEARTBEAT_INTERVAL_MS: u64 = 500;

/// Election timeout of embedded nodes on one network, from and to. A follower waits for the longest one before its
/// own begins, so three heartbeats may be lost.
pub const HIQLITE_ELECTION_LAN_TIMEOUT_MS: (u64, u64) = (600, 1_200);

/// Election timeout of embedded nodes between sites, from and to: Hiqlite's own.
pub const HIQLITE_ELECTION_WAN_TIMEOUT_MS: (u64, u64) = (1_500, 3_000);

/// Silence of a majority after which a leader of Hiqlite leads nobody: the longest election timeout that a
/// cluster has which others run.
pub const HIQLITE_QUORUM_LOST_AFTER_MS: u64 = 3_000;

/// Time to connect to a node of a Hiqlite cluster.
pub const HIQLITE_CONNECT_TIMEOUT_MS: u64 = 1_000;

/// Time in which a node of a Hiqlite cluster must answer that it is there.
pub const HIQLITE_PING_TIMEOUT_MS: u64 = 2_000;

/// Pause between two looks at a Hiqlite cluster that this process is a client of.
pub const HIQLITE_POLL_INTERVAL_MS: u64 = 500;

/// Time for a look that only keeps up to date what this process shows of a Hiqlite cluster.
pub const HIQLITE_REFRESH_TIMEOUT_MS: u64 = 500;

/// Questions to a new leader of a Hiqlite cluster, over the connection to the old one. The first two may be
/// written before its end shows, and the third one shows it.
pub const HIQLITE_ROUSING_COUNT: u64 = 4;

/// Pause between two of them.
pub const HIQLITE_ROUSING_PAUSE_MS: u64 = 50;

/// Time after which another node leads and what was sent to the old leader is given up. Hiqlite's client connects to
/// the new one after a second.
pub const HIQLITE_DEPOSED_WAIT_MS: u64 = 2_000;

/// Pause between two looks at this process's own metrics while a change in them is waited for.
pub const HIQLITE_LOOK_INTERVAL_MS: u64 = 20;

/// Pause between two attempts of a read or write.
pub const HIQLITE_RETRY_PAUSE_MS: u64 = 20;

/// Longest answer of a management call. Metrics of a large cluster take some ten kilobytes.
pub const HIQLITE_ANSWER_MAX_BYTES: usize = 1024 * 1024;

/// What is repeated of an answer that is no JSON.
pub const HIQLITE_REASON_MAX_CHARS: usize = 200;

/// Shortest secret that Hiqlite takes.
pub const HIQLITE_SECRET_MIN_BYTES: usize = 16;

/// Time for a Hiqlite node to stop. It takes ten seconds on purpose, in which clients turn away from it.
pub const HIQLITE_STOP_TIMEOUT_MS: u64 = 21_000;

const _: () = assert!(STREAM_IDLE_MS * 2 < PURGED_READ_WAIT_MS);
const _: () = assert!(COMMAND_MAX_BYTES * 2 < HIQLITE_WAL_BYTES as usize);
const _: () = assert!(HIQLITE_PING_TIMEOUT_MS < REQUEST_TIMEOUT_MS);
const _: () = assert!(HIQLITE_REFRESH_TIMEOUT_MS <= HIQLITE_POLL_INTERVAL_MS);
const _: () = assert!(HIQLITE_ROUSING_COUNT * HIQLITE_ROUSING_PAUSE_MS < HIQLITE_REFRESH_TIMEOUT_MS);
const _: () = assert!(HIQLITE_DEPOSED_WAIT_MS < REQUEST_TIMEOUT_MS);
const _: () = assert!(HIQLITE_HEARTBEAT_INTERVAL_MS < HIQLITE_ELECTION_LAN_TIMEOUT_MS.0);
const _: () = assert!(HIQLITE_ELECTION_LAN_TIMEOUT_MS.0 < HIQLITE_ELECTION_LAN_TIMEOUT_MS.1);
const _: () = assert!(HIQLITE_ELECTION_LAN_TIMEOUT_MS.1 < HIQLITE_ELECTION_WAN_TIMEOUT_MS.0);
const _: () = assert!(HIQLITE_ELECTION_WAN_TIMEOUT_MS.1 <= HIQLITE_QUORUM_LOST_AFTER_MS);
const _: () = assert!(VALUE_MAX_BYTES + KEY_MAX_BYTES < COMMAND_MAX_BYTES);
const _: () = assert!(COMMAND_MAX_BYTES * 2 < APPEND_BATCH_MAX_BYTES);
const _: () = assert!((APPEND_BATCH_MAX_BYTES as u64) * 2 < WIRE_MESSAGE_MAX_BYTES);
const _: () = assert!(COMMAND_MAX_BYTES * 4 <= HTTP_BODY_MAX_BYTES);
const _: () = assert!(COMMAND_MAX_BYTES < LOG_BATCH_MAX_BYTES);
const _: () = assert!(((FORWARD_BATCH_MAX_BYTES + COMMAND_MAX_BYTES) * 2) as u64 <= WIRE_MESSAGE_MAX_BYTES);
const _: () =
    assert!(((FORWARD_BATCH_MAX_BYTES + COMMAND_MAX_BYTES) * 2) as u64 <= WIRE_CLIENT_MESSAGE_MAX_BYTES);
const _: () = assert!(WIRE_CLIENT_MESSAGE_MAX_BYTES <= WIRE_MESSAGE_MAX_BYTES);
const _: () = assert!(JOIN_REQUEST_MAX_BYTES < WIRE_UNKNOWN_WINDOW_BYTES as u64);
const _: () = assert!(STRANGER_INTERVAL_MS < STRANGER_SOURCE_INTERVAL_MS);
const _: () = assert!(STRANGERS_OF_SOURCE_MAX_COUNT < STRANGERS_MAX_COUNT);
const _: () = assert!(PART_RESTART_PAUSE_MIN_MS < PART_RESTART_PAUSE_MAX_MS);
const _: () = assert!(PART_RESTART_PAUSE_MAX_MS * (PART_RESTARTS_MAX_COUNT as u64) < PART_RESTARTS_WINDOW_MS);
const _: () = assert!(WIRE_HANDSHAKES_OF_SOURCE_MAX_COUNT * 2 <= WIRE_HANDSHAKES_MAX_COUNT);
const _: () = assert!(RELAY_ARRIVALS_OF_SOURCE_MAX_COUNT * 2 <= RELAY_ARRIVALS_MAX_COUNT);
const _: () = assert!(WIRE_CLIENT_MESSAGE_MAX_BYTES * 16 <= WIRE_CLIENT_REQUESTS_MAX_BYTES as u64);
const _: () = assert!(((FORWARD_BATCH_MAX_BYTES + RANGE_MAX_BYTES) * 2) as u64 <= WIRE_MESSAGE_MAX_BYTES);
const _: () = assert!(LOG_BATCH_MAX_BYTES < LOG_QUEUE_MAX_BYTES);
const _: () = assert!(APPEND_BATCH_MAX_BYTES < LOG_TAIL_MAX_BYTES);
const _: () = assert!(SNAPSHOT_EVERY_ENTRIES < REPLICATION_LAG_MAX_ENTRIES);
const _: () = assert!(LOG_KEPT_BEHIND_SNAPSHOT_ENTRIES < SNAPSHOT_EVERY_ENTRIES);
const _: () = assert!(WIRE_CONNECT_TIMEOUT_MS + 2 * HELLO_RETRY_INTERVAL_MS < FOLLOWED_WITHIN_MS);
const _: () = assert!(DIAL_SLOW_MS < WIRE_CONNECT_TIMEOUT_MS);
const _: () = assert!(FOLLOWED_WITHIN_MS < LOST_AFTER_MS);
const _: () = assert!(REQUEST_TIMEOUT_MS < CATCH_UP_TIMEOUT_MS);
const _: () = assert!(REQUEST_TIMEOUT_MS + CATCH_UP_TIMEOUT_MS < MEMBERSHIP_TIMEOUT_MS);
const _: () = assert!(MEMBERSHIP_TIMEOUT_MS < HTTP_REQUEST_TIMEOUT_MS);
const _: () = assert!(KEY_MAX_BYTES + VALUE_MAX_BYTES + KV_OVERHEAD_BYTES <= TXN_READ_MAX_BYTES);
const _: () = assert!(KEY_MAX_BYTES + VALUE_MAX_BYTES <= DELETE_PREFIX_MAX_BYTES);
const _: () =
    assert!(TXN_READ_MAX_BYTES + TXN_OPS_MAX_COUNT * KV_OVERHEAD_BYTES < SNAPSHOT_CHUNK_READ_MAX_BYTES);
const _: () = assert!(TXN_READ_MAX_BYTES < RANGE_MAX_BYTES);
const _: () = assert!(HEARTBEAT_MIN_INTERVAL_MS <= HEARTBEAT_LAN_INTERVAL_MS);
const _: () = assert!(HEARTBEAT_LAN_INTERVAL_MS * 2 <= ELECTION_LAN_TIMEOUT_MS.0);
const _: () = assert!(ELECTION_LAN_TIMEOUT_MS.0 < ELECTION_LAN_TIMEOUT_MS.1);
const _: () = assert!(HEARTBEAT_WAN_INTERVAL_MS * 2 <= ELECTION_WAN_TIMEOUT_MS.0);
const _: () = assert!(ELECTION_WAN_TIMEOUT_MS.0 < ELECTION_WAN_TIMEOUT_MS.1);
const _: () = assert!(ELECTION_WAN_TIMEOUT_MS.1 <= ELECTION_MAX_TIMEOUT_MS);
const _: () = assert!(CHECKPOINT_MIN_INTERVAL_MS <= CHECKPOINT_INTERVAL_MS);
const _: () = assert!(CHECKPOINT_INTERVAL_MS <= CHECKPOINT_MAX_INTERVAL_MS);
const _: () = assert!(CACHE_MIN_BYTES <= CACHE_DEFAULT_BYTES && CACHE_DEFAULT_BYTES <= CACHE_MAX_BYTES);
const _: () = assert!(SCRUB_MIN_INTERVAL_S <= SCRUB_INTERVAL_S && SCRUB_INTERVAL_S <= SCRUB_MAX_INTERVAL_S);
const _: () = assert!(SCRUB_STEP_MAX_BYTES as u64 <= SCRUB_MAX_BYTES_PER_SECOND);
const _: () = assert!(SCRUB_MAX_BYTES_PER_SECOND <= SCRUB_FIRST_MAX_BYTES_PER_SECOND);
const _: () = assert!(HISTORY_DEFAULT_REVISIONS <= HISTORY_MAX_REVISIONS);
const _: () = assert!(DISK_RESERVE_MIN_BYTES <= DISK_RESERVE_DEFAULT_MIN_BYTES);
const _: () = assert!(DISK_RESERVE_DEFAULT_MIN_BYTES < DISK_RESERVE_DEFAULT_MAX_BYTES);
const _: () = assert!(DISK_RESERVE_DEFAULT_MAX_BYTES <= DISK_RESERVE_MAX_BYTES);
const _: () = assert!(
    COMMAND_GROWTH_MAX_BYTES
        < DISK_RESERVE_DEFAULT_MAX_BYTES - DISK_RESERVE_DEFAULT_MAX_BYTES / DISK_LAST_RESERVE_DIVISOR
);
const _: () = assert!(DISK_WATCH_INTERVAL_MS < SYNC_SLOW_MS && SYNC_SLOW_MS < SYNC_STALLED_MS);
const _: () = assert!(SYNC_STALLED_MS + DISK_WATCH_INTERVAL_MS < REQUEST_TIMEOUT_MS);
const _: () = assert!(DISK_REPORT_INTERVAL_MS * 3 < DISK_REPORT_VALID_MS);

const _: () = assert!(HTTP_COMPACT_TIMEOUT_MS + REQUEST_TIMEOUT_MS < HTTP_REQUEST_TIMEOUT_MS);
const _: () = assert!(HTTP_BODY_MAX_BYTES * 16 <= HTTP_BODIES_MAX_BYTES);
const _: () = assert!(REQUEST_TIMEOUT_MS < CLIENT_ATTEMPT_TIMEOUT_MS);
const _: () = assert!(CLIENT_ATTEMPT_TIMEOUT_MS < WIRE_ANSWER_TIMEOUT_MS);
const _: () = assert!(CLIENT_ATTEMPT_TIMEOUT_MS * 2 < CLIENT_TIMEOUT_MS);
const _: () = assert!(CLIENT_CONNECT_TIMEOUT_MS * 2 < CLIENT_ABSENT_TIMEOUT_MS);
const _: () = assert!(CLIENT_ABSENT_TIMEOUT_MS < CLIENT_TIMEOUT_MS);
const _: () = assert!(CLIENT_SLOW_ATTEMPT_TIMEOUT_MS < CLIENT_SLOW_TIMEOUT_MS);
const _: () = assert!(CLIENT_IDLE_TIMEOUT_MS < HTTP_HEADER_TIMEOUT_MS);
const _: () = assert!((CLIENT_LANES_MAX_COUNT as u64) * 8 < SESSIONS_MAX_COUNT);
const _: () = assert!(RANGE_MAX_BYTES * 4 < CLIENT_REPLY_MAX_BYTES);
const _: () = assert!(BACKUP_PIECE_TIMEOUT_MS < CLIENT_BACKUP_PIECE_TIMEOUT_MS);
const _: () = assert!(HTTP_CONNECTIONS_MAX_COUNT > HTTP_REQUESTS_MAX_COUNT);
const _: () = assert!(SNAPSHOT_CHUNK_MAX_BYTES + RESTORE_STEP_OVERHEAD_BYTES <= COMMAND_MAX_BYTES);
const _: () =
    assert!(RESTORE_REVISION_GAP < RESTORE_REVISION_MAX && RESTORE_REVISION_MAX < BACKUP_REVISION_MAX);
const _: () = assert!(WIRE_CONNECT_TIMEOUT_MS < BENCH_CONNECT_TIMEOUT_MS);
const _: () = assert!(ACTOR_RECONNECT_MIN_MS < ACTOR_RECONNECT_MAX_MS);
const _: () = assert!(AGENT_REPORT_TIMEOUT_MS < 1_000);
const _: () = assert!(AGENT_ELECTION_WAIT_MS + AGENT_ANSWER_MARGIN_MS < AGENT_CALL_TIMEOUT_MS);
const _: () = assert!(AGENT_CALL_TIMEOUT_MS < AGENT_SLOW_CALL_TIMEOUT_MS);
const _: () = assert!(AGENT_SLOW_CALL_TIMEOUT_MS < HTTP_REQUEST_TIMEOUT_MS);
const _: () = assert!(AGENT_CALLS_MAX_COUNT <= AGENT_REQUESTS_MAX_COUNT);
const _: () =
    assert!((RECENT_PROBLEMS_MAX_COUNT * RECENT_PROBLEM_MAX_BYTES * 8) as u64 <= ACTOR_MESSAGE_MAX_BYTES);
const _: () = assert!(COPY_STEP_MIN_BYTES < COPY_STEP_BYTES);
const _: () = assert!(SHRINK_LAST_STEP_BYTES * 16 <= SHRINK_BEHIND_MAX_BYTES);
const _: () = assert!(SNAPSHOT_EVERY_MIN_BYTES <= SNAPSHOT_EVERY_BYTES);
const _: () = assert!(SNAPSHOT_EVERY_BYTES <= SNAPSHOT_EVERY_MAX_BYTES);
