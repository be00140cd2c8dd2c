//! The zone's layout: which word means what, and who writes it. One table, to be checked by eye.
//!
//! Offsets in [`header`] count from the start of the zone, offsets in [`row`] from the start of a row. Everything else
//! in this crate goes through these names.

/// Tells a zone from other memory: "gatezone" in ASCII.
pub const MAGIC: u64 = u64::from_be_bytes(*b"gatezone");

/// Changes with every change of this file. Whoever takes a zone over compares it first.
pub const VERSION: u64 = 5;

/// Words of the zone's head, written by the master; once, unless said otherwise.
pub mod header {
    /// [`super::MAGIC`].
    pub const MAGIC: usize = 0;
    /// [`super::VERSION`].
    pub const VERSION: usize = 1;
    /// The zone's birth in `CLOCK_BOOTTIME` nanoseconds. Limits count from here.
    pub const EPOCH: usize = 2;
    /// First half of the hash seed of the limiter's keys.
    pub const SEED_LOW: usize = 3;
    /// Second half.
    pub const SEED_HIGH: usize = 4;
    /// Entries (words) of each limiter region.
    pub const ENTRIES: usize = 5;
    /// One more than the highest scoreboard row ever in use, so that readers need not scan all.
    /// Written by the master, and only grows.
    pub const ROWS_USED: usize = 6;
    /// How often the set of backends has changed while the configuration has not: names were looked up. Written by the
    /// monitor; whoever chooses among backends looks at them anew then.
    pub const FLEET_CHANGES: usize = 7;
    /// Generation that serves (the newest one that has committed). Written by the master.
    pub const GENERATION: usize = 8;
    /// How often the log files were to be reopened. Written by the master; a worker that opened its file at a lower
    /// number opens it again.
    pub const REOPEN: usize = 9;
    /// What operators have said about the number of workers, for a master that takes over: 1 << 63 where there is
    /// something, 1 << 62 while there are to be none, the configured number << 32, the number wanted. Written by the
    /// master.
    pub const WORKERS: usize = 10;
    /// One more than the highest backend's cell ever taken, so that readers need not touch all. By compare-and-swap, and only
    /// grows.
    pub const CELLS_USED: usize = 11;
    /// Whether the store of shared limits is asked: see [`crate::store`]. By compare-and-swap.
    pub const STORE_BREAKER: usize = 14;
    /// Whether there is a store, and since when it is away: see [`crate::store`]. By compare-and-swap.
    pub const STORE_SINCE: usize = 15;
    /// Window lengths in nanoseconds of the limiter's fixed-window regions; 0 is an unused region.
    /// Written by the master before any worker that uses it is forked.
    pub const WINDOWS: usize = 16;
    /// How many window lengths can be in use at once.
    pub const WINDOW_COUNT: usize = 16;
    /// Words of the head.
    pub const WORDS: usize = 64;
}

/// Words of one scoreboard row. A row belongs to a process, not to a slot. Single writer: that process; the master
/// writes it before the fork and settles it after the process has been reaped.
pub mod row {
    /// pid << 32 | generation; 0 is a free row. A generation of all ones means that the master with this pid has set the
    /// row aside, or is settling it. From 0 and to 0 by compare-and-swap only, because during an upgrade two masters
    /// share the rows.
    pub const OWNER: usize = 0;
    /// `CLOCK_MONOTONIC` in ms of the last beat.
    pub const HEARTBEAT: usize = 1;
    /// Requests begun; in flight = STARTED - FINISHED.
    pub const STARTED: usize = 2;
    /// Requests ended. Read before STARTED, so that a reader never sees more ended than begun.
    pub const FINISHED: usize = 3;
    /// The process's start time ([`gate_sys::process::born`]), so that a reused pid is not taken for the owner.
    pub const BORN: usize = 4;
    /// Role and slot: see [`crate::scoreboard::Place`].
    pub const PLACE: usize = 5;
    /// See [`crate::scoreboard::Stage`].
    pub const STAGE: usize = 6;
    /// Connections accepted; open = OPENED - CLOSED.
    pub const OPENED: usize = 7;
    /// Connections closed. Read before OPENED.
    pub const CLOSED: usize = 8;
    /// Answers by class: 2xx or less, 3xx, 4xx, 5xx, in four words.
    pub const ANSWERS: usize = 9;
    /// Access log lines lost because the disk could not follow.
    pub const LOG_LOST: usize = 13;
    /// Requests refused by a limit.
    pub const LIMITED: usize = 14;
    /// Connections opened to backends.
    pub const BACKEND_OPENED: usize = 15;
    /// Requests sent to a backend over a connection that had served before.
    pub const BACKEND_REUSED: usize = 16;
    /// Requests whose client left before the end.
    pub const LEFT: usize = 17;
    /// Streams begun; open = `STREAMS_OPENED` - `STREAMS_CLOSED`.
    pub const STREAMS_OPENED: usize = 18;
    /// Streams ended. Read before `STREAMS_OPENED`.
    pub const STREAMS_CLOSED: usize = 19;
    /// Bytes of memory that the process held when it last looked.
    pub const RSS: usize = 20;
    /// Latency histogram: bucket i counts answers that took less than 2^i microseconds and not less than 2^(i-1).
    pub const LATENCY: usize = 24;
    /// Buckets of the histogram; the last one takes all that is longer (2^31 us are 36 minutes).
    pub const LATENCY_COUNT: usize = 32;
    /// Requests in service, for the report of a death: each word is `CLOCK_MONOTONIC` in ms at its begin << 8 | the
    /// route's number, 0 is free. Beyond these words requests are counted, but not described.
    pub const IN_SERVICE: usize = LATENCY + LATENCY_COUNT;
    /// How many are described.
    pub const IN_SERVICE_COUNT: usize = 8;
    /// Words of a row: eight cache lines, so that two writers never share one.
    pub const WORDS: usize = 64;
    /// Words that count, and are added up when a row is settled.
    pub const COUNTERS: [std::ops::Range<usize>; 2] = [ANSWERS..STREAMS_OPENED, LATENCY..LATENCY + LATENCY_COUNT];
    /// Pairs that count begins and ends. What a process had begun has ended with it.
    pub const PAIRS: [(usize, usize); 3] = [(STARTED, FINISHED), (OPENED, CLOSED), (STREAMS_OPENED, STREAMS_CLOSED)];
}

/// Words of one backend's cell. See [`crate::fleet`].
pub mod backend {
    /// Keyed hash of its URL; 0 is a free cell. By compare-and-swap.
    pub const KEY: usize = 0;
    /// Key of the name that it was found under; 0 for one that the configuration names. Written by whoever claims it.
    pub const PARENT: usize = 1;
    /// The IPv6 address (IPv4 as mapped) of one that was found, in two words, high half first. Written with the claim.
    pub const ADDRESS: usize = 2;
    /// 1 << 32 while the name still has this address, and the port. Written by the monitor.
    pub const PORT: usize = 4;
    /// What the monitor last saw; see [`crate::probe`]. Written by the monitor.
    pub const PROBE: usize = 5;
    /// See [`crate::fleet::breaker`]. By compare-and-swap.
    pub const BREAKER: usize = 6;
    /// Mean time that a request holds a slot, in microseconds. By compare-and-swap; a lost one is a sample less.
    pub const SERVICE: usize = 7;
    /// Mean time that a model takes to load, in milliseconds. As above.
    pub const LOAD: usize = 8;
    /// The most models that were ever seen in memory together. Written by the monitor.
    pub const ROOM: usize = 9;
    /// Which half of the inventory holds: see [`crate::fleet::inventory`]. Written by the monitor.
    pub const LISTED: usize = 10;
    /// Requests that have ended here. By compare-and-swap.
    pub const SERVED: usize = 11;
    /// Failures that were seen; connections kept from before the last one are not used again. By compare-and-swap.
    pub const FAILED: usize = 12;
    /// 1 once a model has been seen to leave memory for another. Written by the monitor.
    pub const EVICTED: usize = 13;
    /// How many requests it is given at once by the newest configuration; 0 while none has said. Written by each process
    /// that begins with one.
    pub const ALLOWED: usize = 14;
    /// How often its models were said to change << 32 | how many of these its list has seen. By compare-and-swap.
    pub const CHANGES: usize = 15;
    /// Models in memory: see [`crate::fleet::residents`]. By compare-and-swap.
    pub const RESIDENT: usize = 16;
    /// How many are remembered.
    pub const RESIDENT_COUNT: usize = 16;
    /// Their names, for people: eight words of text each. Written by the monitor.
    pub const NAMES: usize = RESIDENT + RESIDENT_COUNT;
    /// Words of a name.
    pub const NAME_WORDS: usize = 8;
    /// Slots, a word each: see [`crate::fleet::slots`]. By compare-and-swap.
    pub const SLOT: usize = NAMES + RESIDENT_COUNT * NAME_WORDS;
    /// The most requests that a backend is given at once.
    pub const SLOT_COUNT: usize = 256;
    /// Two hash sets of the names that it lists. Written by the monitor.
    pub const INVENTORY: usize = SLOT + SLOT_COUNT;
    /// Words of one set.
    pub const INVENTORY_COUNT: usize = 256;
    /// Words of a cell: two pages, so that an unused one costs no memory.
    pub const WORDS: usize = 1024;
}

/// Backends that can be known at once: a set of them is one word.
pub const BACKENDS: usize = 64;

/// Words of the queue's head. See [`crate::fleet::queue`].
pub mod queue {
    /// Tickets drawn so far. By compare-and-swap.
    pub const TICKETS: usize = 0;
    /// Virtual time: the highest start tag that was served. By compare-and-swap, and only grows.
    pub const VIRTUAL: usize = 1;
    /// What of the retry budget is spent, in tenths. By compare-and-swap.
    pub const SPENT: usize = 2;
    /// A bit for each entry in use. By compare-and-swap.
    pub const OCCUPIED: usize = 8;
    /// Entries.
    pub const ENTRIES: usize = 1024;
    /// Words of the head.
    pub const WORDS: usize = OCCUPIED + ENTRIES / 64;
}

/// Words of one entry of the queue: one cache line. Written by its owner while it is CLAIMED, but for those that say
/// otherwise.
pub mod entry {
    /// EMPTY, CLAIMED, WAITING or GRANTED: see [`crate::fleet::queue`]. By compare-and-swap.
    pub const STATE: usize = 0;
    /// Cost << 32 | pid << 8 | row of the process whose request waits.
    pub const OWNER: usize = 1;
    /// Hash of its client.
    pub const CLIENT: usize = 2;
    /// Start tag: when it is due in virtual time.
    pub const START: usize = 3;
    /// The model instance that it needs.
    pub const WANT: usize = 4;
    /// A bit for each backend that may serve it. Its owner may change it while it waits.
    pub const BACKENDS: usize = 5;
    /// `CLOCK_MONOTONIC` in ms at which it came.
    pub const SINCE: usize = 6;
    /// When it was first passed by another that needs no swap, in ms; 0 if never. Written by whoever passes it on.
    pub const PASSED: usize = 7;
    /// Words of an entry.
    pub const WORDS: usize = 8;
}

/// Words of the keyring: a head, and two halves of which one holds. See [`crate::keyring`].
///
/// Offsets behind [`HALVES`](keyring::HALVES) count from the start of a half. What nobody has written costs no memory.
pub mod keyring {
    /// How often keys were published; the lowest bit is the half that holds. Written by the process that PUBLISHER names.
    pub const GENERATION: usize = 0;
    /// Who publishes: pid << 40 | its start time; 0 is nobody. By compare-and-swap.
    pub const PUBLISHER: usize = 1;
    /// First word of the first half: a page behind the head, so that a half can be given back.
    pub const HALVES: usize = 512;

    /// The most keys.
    pub const KEYS: usize = 200_000;

    /// How many keys the half holds.
    pub const KEY_COUNT: usize = 0;
    /// How many buckets.
    pub const BUCKET_COUNT: usize = 1;
    /// How many policies.
    pub const POLICY_COUNT: usize = 2;
    /// How many words all records have.
    pub const RECORDS_USED: usize = 3;
    /// For each bucket, and for one behind the last: where its first record begins among them.
    pub const BUCKETS: usize = 8;
    /// The most buckets: one for each key.
    pub const BUCKET_COUNT_MAX: usize = KEYS;
    /// Records, each with its name behind it, bucket by bucket.
    pub const RECORDS: usize = (BUCKETS + BUCKET_COUNT_MAX + 1).next_multiple_of(record::WORDS);
    /// The most words of a name: eight bytes each.
    pub const NAME_WORDS: usize = 8;
    /// The most words of all records.
    pub const RECORDS_MAX: usize = KEYS * (record::WORDS + NAME_WORDS);
    /// For each policy: the first word of its text << 32 | the text's bytes.
    pub const POLICIES: usize = RECORDS + RECORDS_MAX;
    /// The most policies: one for each key.
    pub const POLICY_COUNT_MAX: usize = KEYS;
    /// Texts of the policies, each in words of its own.
    pub const TEXTS: usize = POLICIES + POLICY_COUNT_MAX;
    /// The most words of all texts: 8 MiB, 40 bytes for each of as many policies as there can be keys.
    pub const TEXT_WORDS: usize = 1 << 20;
    /// Words of a half: whole pages.
    pub const HALF_WORDS: usize = (TEXTS + TEXT_WORDS).next_multiple_of(512);
    /// Words of the keyring.
    pub const WORDS: usize = HALVES + 2 * HALF_WORDS;

    /// Words of a record: one cache line, and its name behind them.
    pub mod record {
        /// Words of its name << 60 | the key's id.
        pub const ID: usize = 0;
        /// Salt, in two words.
        pub const SALT: usize = 1;
        /// Digest, in four words.
        pub const DIGEST: usize = 3;
        /// When it expires, in Unix seconds, << 32 | the policy.
        pub const TERMS: usize = 7;
        /// Words of a record without its name.
        pub const WORDS: usize = 8;
    }
}

/// Words of the table in which clients' finish tags are kept: 512 sets of eight.
pub const CLIENTS: usize = 4096;

/// Words of the table of loads in progress.
pub const LOADS: usize = 256;

/// Words that say who is in service for a key. See [`crate::holds`]. By compare-and-swap.
pub mod holds {
    /// How far the words of each group's keys lie, a byte each, and behind that the words.
    pub const TABLE: usize = GROUPS / 8;
    /// Groups of words.
    pub const GROUPS: usize = 256;
    /// Words of a group.
    pub const GROUP: usize = 64;
    /// The most that a key can have in service.
    pub const MAX: usize = 1024;
    /// All of them: 128 KiB and a quarter.
    pub const WORDS: usize = TABLE + GROUPS * GROUP;
}

/// Rows of the scoreboard. Row 0 is the master's: the sums of all settled rows.
pub const ROWS: usize = 256;

/// The row in which the master sums up what dead processes had counted.
pub const SETTLED_ROW: usize = 0;

/// Words that take the place of a full set's ways in each limiter region.
pub const OVERFLOW_CELLS: usize = 1024;

/// First word of the scoreboard.
pub const SCOREBOARD: usize = header::WORDS;

/// First word of the backends' cells.
pub const FLEET: usize = SCOREBOARD + ROWS * row::WORDS;

/// First word of the queue's head.
pub const QUEUE: usize = FLEET + BACKENDS * backend::WORDS;

/// First word of the queue's entries.
pub const ENTRIES: usize = (QUEUE + queue::WORDS).next_multiple_of(entry::WORDS);

/// First word of the clients' finish tags.
pub const FINISH_TAGS: usize = ENTRIES + queue::ENTRIES * entry::WORDS;

/// First word of the loads in progress.
pub const LOADING: usize = FINISH_TAGS + CLIENTS;

/// First word of who is in service for a key.
pub const HOLDS: usize = LOADING + LOADS;

/// First word of the keyring: of a page, so that its halves can be given back.
pub const KEYRING: usize = (HOLDS + holds::WORDS).next_multiple_of(512);

/// First word of the limiter.
pub const LIMITER: usize = KEYRING + keyring::WORDS;

/// Words of one limiter region with `entries` entries.
pub const fn region_words(entries: usize) -> usize {
    entries + OVERFLOW_CELLS
}

/// Words of the whole zone: the fixed-window regions, and one region for GCRA behind them.
pub const fn zone_words(entries: usize) -> usize {
    LIMITER + (header::WINDOW_COUNT + 1) * region_words(entries)
}
