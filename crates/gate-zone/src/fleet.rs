//! The fleet as all processes see it: a cell for each backend, the queue in front of them, the loads in progress.
//!
//! It knows words and protocols. Who may ask, which backend is best and when somebody has waited too long is decided in
//! `gate-upstream`.
//!
//! Invariants: nothing here is held by a process in a way that its death would not undo ([`Fleet::settle`]); the number in
//! flight is counted from slots, never kept.

pub mod breaker;
pub mod inventory;
pub mod loads;
pub mod queue;
pub mod residents;
pub mod settlement;
pub mod slots;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::AtomicU64;

use gate_sys::process;
use siphasher::sip::SipHasher13;

use crate::Zone;
use crate::fleet::inventory::Listed;
use crate::fleet::queue::Queue;
pub use crate::fleet::residents::Instance;
use crate::fleet::slots::{FREE, Holder, Slot};
use crate::layout::{self, BACKENDS, backend, header};
use crate::probe::Probe;
use crate::scoreboard::Scoreboard;
use crate::word::{Word, update};

/// A mean moves by an eighth of what a sample differs from it.
const SHARE: u64 = 8;

/// Says that a found address is still there, beside the port.
const PRESENT: u64 = 1 << 32;

/// Keys from here on are no backend's: the cell is in the hands of the process that the low half names.
const EMPTYING: u64 = (u32::MAX as u64) << 32;

/// How often a claim begins anew because another claims for the same key at the same moment: each time both must have met
/// within a few instructions.
const CLAIM_ROUNDS: usize = 64;

/// All backends, the queue and the loads of a zone.
#[derive(Debug, Clone, Copy)]
pub struct Fleet {
    zone: Zone,
}

/// One backend's words. Copies name the same words.
#[derive(Debug, Clone, Copy)]
pub struct Cell {
    index: usize,
    words: &'static [AtomicU64],
}

/// Every cell is taken by backends that are wanted or in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoCell;

impl std::fmt::Display for NoCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "there are more than {BACKENDS} backends, those of the configuration in service included")
    }
}

impl std::error::Error for NoCell {}

impl Zone {
    /// The fleet.
    pub fn fleet(self) -> Fleet {
        Fleet { zone: self }
    }
}

impl Fleet {
    fn range(self, start: usize, length: usize) -> &'static [AtomicU64] {
        &self.zone.words[start..start + length]
    }

    /// A keyed hash, the same in all processes of this zone; never 0, nor a word that [`Cell::key`] does not give.
    pub fn hash(self, text: &[u8]) -> u64 {
        let [low, high] = self.zone.seed();
        SipHasher13::new_with_keys(low, high).hash(text).clamp(1, EMPTYING - 1)
    }

    /// The instance of a model: by the name as Ollama lists it, and the options that make it load anew (empty for none).
    pub fn instance(self, name: &str, options: &str) -> Instance {
        // 0 is what unused words hold.
        let half = |text: &str| (self.hash(text.as_bytes()) >> 32) as u32;
        let options = if options.is_empty() { 0 } else { (half(options) as u16).max(1) };
        Instance { name: half(name).max(1), options }
    }

    /// The cell at this place, below [`BACKENDS`].
    ///
    /// # Panics
    /// Beyond the last one.
    pub fn cell(self, index: usize) -> Cell {
        assert!(index < BACKENDS, "there are {BACKENDS} cells");
        Cell { index, words: self.range(layout::FLEET + index * backend::WORDS, backend::WORDS) }
    }

    /// All cells that are taken.
    pub fn cells(self) -> impl Iterator<Item = Cell> {
        self.used().filter(|cell| cell.key() != 0)
    }

    /// Every cell that was ever taken. The others have no memory, and looking at them would give them some.
    fn used(self) -> impl Iterator<Item = Cell> {
        let used = (Word::load(&self.zone.words[header::CELLS_USED]) as usize).min(BACKENDS);
        (0..used).map(move |index| self.cell(index))
    }

    /// The cell of the backend with this key.
    pub fn find(self, key: u64) -> Option<Cell> {
        self.cells().find(|cell| cell.key() == key)
    }

    /// The backends that were found under a name, and are still there.
    pub fn found(self, parent: u64) -> impl Iterator<Item = (Cell, SocketAddr)> {
        self.cells().filter_map(move |cell| {
            let address = (cell.load(backend::PARENT) == parent).then(|| cell.address())??;
            Some((cell, address))
        })
    }

    /// The cell of the backend with this key, taken if there is none. `wanted` are the keys of all backends that
    /// configurations in service name: when no cell is free, that of any other backend that has nothing in flight is given
    /// anew, or that of an address that is gone.
    ///
    /// # Errors
    /// [`NoCell`].
    pub fn claim(self, key: u64, wanted: &[u64]) -> Result<Cell, NoCell> {
        self.claim_for(key, None, wanted)
    }

    /// As [`claim`](Self::claim), for an address that a name has, which is there from now on. Monitor only.
    ///
    /// # Errors
    /// [`NoCell`].
    pub fn claim_found(self, key: u64, parent: u64, address: SocketAddr, wanted: &[u64]) -> Result<Cell, NoCell> {
        self.claim_for(key, Some((parent, address)), wanted)
    }

    fn claim_for(self, key: u64, found: Option<(u64, SocketAddr)>, wanted: &[u64]) -> Result<Cell, NoCell> {
        let tell = |cell: Cell| {
            if let Some((parent, address)) = found {
                cell.tell_address(parent, Some(address));
            }
            cell
        };
        let mine = EMPTYING | u64::from(process::own_pid());
        for _ in 0..CLAIM_ROUNDS {
            if let Some(cell) = self.find(key) {
                return Ok(tell(cell));
            }
            let cell = self.reserve(mine, wanted).ok_or(NoCell)?;
            // Among those that are looked at, and whole, before it can be found.
            let used = cell.index as u64 + 1;
            update(&self.zone.words[header::CELLS_USED], |most| (used > most).then_some(used));
            cell.empty();
            tell(cell);
            cell.word(backend::KEY).store(key, SEQ);
            // Of two that claim for one key at once, at least one sees the other's cell.
            if self.cells().filter(|other| other.key() == key).count() == 1 {
                return Ok(cell);
            }
            let _taken = cell.word(backend::KEY).compare_exchange(key, 0, SEQ, SEQ);
        }
        Err(NoCell)
    }

    /// Makes a cell the caller's to empty: a free one, else one that nobody wants or uses.
    fn reserve(self, mine: u64, wanted: &[u64]) -> Option<Cell> {
        let all = || (0..BACKENDS).map(|index| self.cell(index));
        let swap = |cell: &Cell, held, new| cell.word(backend::KEY).compare_exchange(held, new, SEQ, SEQ).is_ok();
        let free = all().find(|cell| {
            let held = cell.load(backend::KEY);
            is_nobodys(held) && swap(cell, held, mine)
        });
        free.or_else(|| {
            all().find(|cell| {
                let held = cell.load(backend::KEY);
                let is_there = cell.address().is_some();
                let is_wanted = wanted.contains(&held) || (is_there && wanted.contains(&cell.load(backend::PARENT)));
                if held >= EMPTYING || is_wanted || cell.is_in_use() || !swap(cell, held, mine) {
                    return false;
                }
                // Somebody may have taken a slot just before: either he sees that the key is another, or is seen here.
                let is_mine = !cell.is_in_use();
                is_mine || !swap(cell, mine, held)
            })
        })
    }

    /// How often the set of backends has changed by itself.
    pub fn changes(self) -> u64 {
        Word::load(&self.zone.words[header::FLEET_CHANGES])
    }

    /// Says that it has. Monitor only.
    pub fn tell_change(self) {
        update(&self.zone.words[header::FLEET_CHANGES], |count| Some(count + 1));
    }

    /// The queue.
    pub fn queue(self) -> Queue<'static> {
        let head = self.range(layout::QUEUE, layout::queue::WORDS);
        let entries = self.range(layout::ENTRIES, layout::queue::ENTRIES * layout::entry::WORDS);
        Queue::new(head, entries, self.range(layout::FINISH_TAGS, layout::CLIENTS))
    }

    /// The loads in progress.
    pub fn loads(self) -> &'static [AtomicU64] {
        self.range(layout::LOADING, layout::LOADS)
    }

    /// Frees all that the process `pid`, whose row is `row`, held: its slots and its places in the queue; how many of both.
    /// Whoever waits for one of the slots finds it within a tenth of a second. Masters only, before the row is settled.
    pub fn settle(self, row: usize, pid: u32) -> (usize, usize) {
        let gone = Holder::new(row, pid);
        self.free(|holder| holder == gone)
    }

    /// Frees what is held by processes that no row of the scoreboard knows any more: what two masters have missed between
    /// them. And offers that nobody can take. Masters only.
    pub fn settle_strays(self, board: Scoreboard) -> (usize, usize) {
        let (slots, places) = self.free(|holder| is_stray(board, holder));
        (slots + settlement::free_unpromised(self.queue(), &self.all_slots()), places)
    }

    fn free(self, is_gone: impl Fn(Holder) -> bool) -> (usize, usize) {
        // A row of nobody: the entry is in no other process's hands while it is emptied.
        let own = Holder::new(layout::SETTLED_ROW, process::own_pid());
        settlement::free(self.queue(), &self.all_slots(), is_gone, own)
    }

    /// Those of cells that are free again too: one that was given up may have been taken from in its last moment.
    fn all_slots(self) -> Vec<&'static [AtomicU64]> {
        self.used().map(|cell| cell.slots(backend::SLOT_COUNT)).collect()
    }
}

/// Whether a cell with this word in the place of its key is free: it never had a backend, or lost it to a process that did
/// not live to give it another.
fn is_nobodys(key: u64) -> bool {
    let pid = key as u32;
    key == 0 || (key >= EMPTYING && process::is_gone(pid, process::born(pid).unwrap_or(0)))
}

/// Whether no row of the scoreboard knows this process any more.
pub(crate) fn is_stray(board: Scoreboard, holder: Holder) -> bool {
    match holder.row() {
        // Another master, which may be at it: to take its work over would be to do half of it twice.
        layout::SETTLED_ROW => is_lost_master(holder.pid()),
        row => board.row(row).pid().is_none_or(|pid| Holder::new(row, pid) != holder),
    }
}

/// Whether the master with this pid has left something behind, rather than being about to finish it. A master does one
/// thing at a time, so what names the caller itself is left behind.
fn is_lost_master(pid: u32) -> bool {
    pid == process::own_pid() || process::is_gone(pid, process::born(pid).unwrap_or(0))
}

const SEQ: std::sync::atomic::Ordering = std::sync::atomic::Ordering::SeqCst;

impl Cell {
    fn word(self, offset: usize) -> &'static AtomicU64 {
        &self.words[offset]
    }

    fn load(self, offset: usize) -> u64 {
        Word::load(&self.words[offset])
    }

    /// Its place, below [`BACKENDS`].
    pub fn index(self) -> usize {
        self.index
    }

    /// Its place as a set of one.
    pub fn bit(self) -> u64 {
        1 << self.index
    }

    /// The key of its backend; 0 for a free cell, and for one that is about to be a backend's.
    pub fn key(self) -> u64 {
        Some(self.load(backend::KEY)).filter(|key| *key < EMPTYING).unwrap_or(0)
    }

    fn is_in_use(self) -> bool {
        slots::in_flight(self.slots(backend::SLOT_COUNT)) > 0
    }

    fn empty(self) {
        // Slots are free, or will be given back by those that have them.
        let (before, after) = (backend::KEY + 1..backend::SLOT, backend::SLOT + backend::SLOT_COUNT..backend::WORDS);
        for word in before.chain(after).map(|index| &self.words[index]) {
            // Words that nobody has touched cost no memory, and a write would touch them.
            if Word::load(word) != 0 {
                word.store(0, SEQ);
            }
        }
    }

    /// Its first `count` slots.
    pub fn slots(self, count: usize) -> &'static [AtomicU64] {
        &self.words[backend::SLOT..backend::SLOT + count.min(backend::SLOT_COUNT)]
    }

    /// Takes one of its first `count` slots, looking from `start` on, for a request to the backend with this key. `None` if
    /// none is free, or if the cell is another backend's by now: cells that nobody used are given anew, and whoever took a
    /// slot without looking at the key again would have it in the wrong one.
    pub fn take(self, key: u64, (count, start): (usize, usize), by: Holder, tag: u32) -> Option<usize> {
        let slots = self.slots(count);
        let index = slots::take(slots, start, by, tag)?;
        if self.key() != key {
            let _settled = slots[index].compare_exchange(Slot::Held { by, tag }.to_word(), FREE, SEQ, SEQ);
            return None;
        }
        Some(index)
    }

    /// How many requests it is given at once: what the caller's configuration says, or a newer one that gives it less.
    pub fn allowed(self, slots: usize) -> usize {
        match self.load(backend::ALLOWED) {
            0 => slots,
            newest => slots.min(newest as usize),
        }
    }

    /// Tells how many that are by a configuration that begins. Whoever drains under an older one follows.
    pub fn tell_allowed(self, slots: usize) {
        self.word(backend::ALLOWED).store(slots as u64, SEQ);
    }

    /// Requests in service, over all processes.
    pub fn in_flight(self) -> usize {
        slots::in_flight(self.slots(backend::SLOT_COUNT))
    }

    /// Whether a request for the model with this tag is in service, its client there or not.
    pub fn serves(self, tag: u32) -> bool {
        let left = slots::left_behind(tag);
        self.slots(backend::SLOT_COUNT).iter().any(|slot| {
            let word = Word::load(slot);
            word != FREE && matches!(Slot::from_word(word), Slot::Held { tag: held, .. } if held == tag || held == left)
        })
    }

    /// The address under which it was found; `None` for one that the configuration names, and for one that is gone.
    pub fn address(self) -> Option<SocketAddr> {
        let port = self.load(backend::PORT);
        let bits = u128::from(self.load(backend::ADDRESS)) << 64 | u128::from(self.load(backend::ADDRESS + 1));
        let address = Ipv6Addr::from_bits(bits);
        let address = address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4);
        (port & PRESENT != 0).then(|| SocketAddr::new(address, port as u16))
    }

    /// Says where it was found, or that it is gone. Monitor only.
    pub fn tell_address(self, parent: u64, address: Option<SocketAddr>) {
        let Some(address) = address else { return self.word(backend::PORT).store(0, SEQ) };
        let bits = match address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        self.word(backend::ADDRESS).store((bits >> 64) as u64, SEQ);
        self.word(backend::ADDRESS + 1).store(bits as u64, SEQ);
        self.word(backend::PARENT).store(parent, SEQ);
        self.word(backend::PORT).store(PRESENT | u64::from(address.port()), SEQ);
    }

    /// What the monitor last saw.
    pub fn probe(self) -> Probe {
        Probe::from_word(self.load(backend::PROBE))
    }

    /// Tells what it has seen. Monitor only.
    pub fn tell_probe(self, probe: Probe) {
        self.word(backend::PROBE).store(probe.to_word(), SEQ);
    }

    /// What its breaker says at `now_ms` of `CLOCK_MONOTONIC`.
    pub fn breaker_state(self, now_ms: u64) -> breaker::State {
        breaker::state(self.load(backend::BREAKER), now_ms)
    }

    /// Whether its breaker lets all requests pass: at any time then, so no clock is needed.
    pub fn is_closed(self) -> bool {
        matches!(self.breaker_state(0), breaker::State::Closed { .. })
    }

    /// Its breaker.
    pub fn breaker(self) -> &'static AtomicU64 {
        self.word(backend::BREAKER)
    }

    /// Whether it lists a model, by [`Instance::name`].
    pub fn lists(self, name: u32) -> Listed {
        if self.has_changed() {
            return Listed::Unknown;
        }
        let halves = &self.words[backend::INVENTORY..backend::INVENTORY + 2 * backend::INVENTORY_COUNT];
        inventory::lists(self.load(backend::LISTED), halves, name)
    }

    /// Says that its models may have changed: until it is asked anew, nobody knows what it lists.
    pub fn models_changed(self) {
        update(self.word(backend::CHANGES), |word| Some(word.wrapping_add(1 << 32)));
    }

    /// How often its models were said to change.
    pub fn changes(self) -> u32 {
        (self.load(backend::CHANGES) >> 32) as u32
    }

    /// Whether its models were said to change since it told what it lists.
    pub fn has_changed(self) -> bool {
        self.changes() != self.load(backend::CHANGES) as u32
    }

    /// Says that its list is one of after so many changes. Monitor only.
    pub fn tell_changes_seen(self, changes: u32) {
        update(self.word(backend::CHANGES), |word| Some(word & !u64::from(u32::MAX) | u64::from(changes)));
    }

    /// How many models it lists; `None` while that is not known.
    pub fn listed(self) -> Option<u32> {
        inventory::count(self.load(backend::LISTED))
    }

    /// Tells what it lists, or that this is not known any more. Monitor only.
    pub fn tell_listed(self, names: Option<&[u32]>) {
        let halves = &self.words[backend::INVENTORY..backend::INVENTORY + 2 * backend::INVENTORY_COUNT];
        match names {
            Some(names) => inventory::publish(self.word(backend::LISTED), halves, names),
            None => inventory::unknown(self.word(backend::LISTED)),
        }
    }

    fn residents(self) -> &'static [AtomicU64] {
        &self.words[backend::RESIDENT..backend::RESIDENT + backend::RESIDENT_COUNT]
    }

    /// The models in memory.
    pub fn in_memory(self) -> impl Iterator<Item = Instance> {
        residents::all(self.residents())
    }

    /// Whether this one is in memory.
    pub fn holds(self, wanted: Instance) -> bool {
        residents::holds(self.residents(), wanted)
    }

    /// Notes that it has just answered, at this millisecond of `CLOCK_MONOTONIC`.
    pub fn note(self, seen: Instance, now_ms: u64) {
        residents::note(self.residents(), seen, residents::tick(now_ms));
    }

    /// Notes that a model has left memory.
    pub fn forget(self, name: u32) {
        residents::forget(self.residents(), name);
    }

    /// Tells which models are in memory (hash and name), as listed when asked at `asked_ms`. Monitor only.
    pub fn tell_in_memory(self, listed: &[(u32, &str)], asked_ms: u64) {
        let names: Vec<u32> = listed.iter().map(|(name, _)| *name).collect();
        for (place, (_, name)) in
            residents::follow(self.residents(), &names, residents::tick(asked_ms)).into_iter().zip(listed)
        {
            if let Some(place) = place {
                self.write_name(place, name);
            }
        }
        let (room, now) = (self.word(backend::ROOM), listed.len() as u64);
        update(room, |most| (now > most).then_some(now));
    }

    /// The most models that were ever in memory together.
    pub fn room(self) -> usize {
        self.load(backend::ROOM) as usize
    }

    /// Whether another model fits beside so many, as far as is known: before one has been seen to leave for another, any
    /// may; afterwards, as many as were ever seen together.
    pub fn has_room_beside(self, models: usize) -> bool {
        self.load(backend::EVICTED) == 0 || models < self.room().max(1)
    }

    /// Tells that a model has left memory for another. Monitor only.
    pub fn tell_evicted(self) {
        self.word(backend::EVICTED).store(1, SEQ);
    }

    fn name_words(self, place: usize) -> &'static [AtomicU64] {
        let start = backend::NAMES + place * backend::NAME_WORDS;
        &self.words[start..start + backend::NAME_WORDS]
    }

    fn write_name(self, place: usize, name: &str) {
        let mut bytes = name.bytes().chain(std::iter::repeat(0));
        for word in self.name_words(place) {
            let eight = std::array::from_fn(|_| bytes.next().unwrap_or(0));
            word.store(u64::from_le_bytes(eight), SEQ);
        }
    }

    /// The names of the models in memory, for people: 64 bytes of each. One that no list has named yet is left out.
    pub fn names_in_memory(self, fleet: Fleet) -> Vec<String> {
        let mut names = Vec::new();
        for (place, word) in self.residents().iter().enumerate() {
            let held = Word::load(word);
            let bytes: Vec<u8> =
                self.name_words(place).iter().flat_map(|word| Word::load(word).to_le_bytes()).collect();
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            let name = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let is_cut = end == bytes.len();
            if held != 0 && !name.is_empty() && (is_cut || fleet.instance(&name, "").name == (held >> 32) as u32) {
                names.push(name);
            }
        }
        names
    }

    /// Mean time that a request holds a slot, in microseconds; 0 before the first.
    pub fn service_us(self) -> u64 {
        self.load(backend::SERVICE)
    }

    /// Mean time that a model takes to load, in ms; 0 before the first.
    pub fn load_ms(self) -> u64 {
        self.load(backend::LOAD)
    }

    /// Counts a request that held a slot for so long.
    pub fn served(self, microseconds: u64) {
        mean(self.word(backend::SERVICE), microseconds);
        update(self.word(backend::SERVED), |count| Some(count + 1));
    }

    /// Counts a load that took so long.
    pub fn loaded(self, milliseconds: u64) {
        mean(self.word(backend::LOAD), milliseconds);
    }

    /// Requests that have ended here.
    pub fn served_count(self) -> u64 {
        self.load(backend::SERVED)
    }

    /// Failures that were seen, by requests and by the monitor.
    pub fn failed_count(self) -> u64 {
        self.load(backend::FAILED)
    }

    /// Counts a failure.
    pub fn count_failure(self) {
        update(self.word(backend::FAILED), |count| Some(count + 1));
    }
}

fn mean(word: &AtomicU64, sample: u64) {
    update(word, |mean| {
        let moved = mean - mean / SHARE + sample / SHARE;
        Some(if mean == 0 { sample.max(1) } else { moved.max(1) })
    });
}

#[cfg(test)]
mod tests;
