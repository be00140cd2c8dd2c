//! Memory that all processes of one gate share: a sealed memfd of 64-bit words.
//!
//! It hands out atomic words and nothing else: no structs, no pointers, no locks. A process killed at any instruction
//! leaves nothing held, and zero is a valid value of every word. No core of any process holds them.

use std::ffi::CStr;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap};
use nix::sys::stat::fstat;
use nix::sys::uio::pread;
use nix::unistd::ftruncate;

/// Name of the memfd, as `/proc/PID/maps` shows it.
const NAME: &CStr = c"ollama-gate-zone";

/// Bytes of one word.
const WORD: usize = size_of::<AtomicU64>();

/// Words that [`SharedWords::read_range`] reads at once: 64 KiB, which cost one call and stay in the cache.
const PIECE_WORDS: usize = 8_192;

/// A mapping of shared words that lives as long as the process and everything forked from it.
#[derive(Debug)]
pub struct SharedWords {
    fd: OwnedFd,
    words: &'static [AtomicU64],
}

impl SharedWords {
    /// Creates and maps `count` zeroed words. Pages are taken from the kernel only when they are first touched, be it to read.
    ///
    /// # Errors
    /// What `memfd_create`, `ftruncate`, `fcntl(F_ADD_SEALS)` or `mmap` answer: out of memory or file descriptors.
    pub fn create(count: NonZeroUsize) -> io::Result<Self> {
        let fd = memfd_create(NAME, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        let bytes = count.get().checked_mul(WORD).ok_or(io::ErrorKind::InvalidInput)?;
        ftruncate(&fd, i64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?)?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL))?;
        let words = map(&fd, count)?;
        Ok(Self { fd, words })
    }

    /// Maps the words of a file that another process has made with [`SharedWords::create`].
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for a file that is no such file: empty, not of whole words, or one that could still
    /// be resized; what `fstat` or `mmap` answer.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        // Files that are not in memory do not know of seals.
        let seals = fcntl(&fd, FcntlArg::F_GET_SEALS).map_or(SealFlag::empty(), SealFlag::from_bits_retain);
        if !seals.contains(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW) {
            return Err(wrong("not memory of a fixed size"));
        }
        let bytes = usize::try_from(fstat(&fd)?.st_size).map_err(|_| wrong("no size"))?;
        let count = NonZeroUsize::new(bytes / WORD).filter(|_| bytes.is_multiple_of(WORD));
        let words = map(&fd, count.ok_or_else(|| wrong("not a number of whole words"))?)?;
        Ok(Self { fd, words })
    }

    /// Reads the words in `range` in pieces, in their order and each once, and costs no memory where nobody has written
    /// yet: unlike reading through [`SharedWords::words`], it makes the kernel provide no page. A word that changes
    /// meanwhile may be torn.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a range that goes beyond the end; what `pread` answers.
    pub fn read_range(&self, range: Range<usize>, sink: &mut dyn FnMut(&[u64])) -> io::Result<()> {
        if range.end > self.words.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut bytes = vec![0; PIECE_WORDS.min(range.len()) * WORD];
        let mut words = Vec::with_capacity(PIECE_WORDS.min(range.len()));
        let mut start = range.start;
        while start < range.end {
            let piece = &mut bytes[..PIECE_WORDS.min(range.end - start) * WORD];
            read_at(self.fd.as_fd(), piece, start * WORD)?;
            words.clear();
            words.extend(whole_words(piece));
            sink(&words);
            start += words.len();
        }
        Ok(())
    }

    /// Gives the memory of the words in `range` back to the kernel, for all processes: they are zero from then on, and cost
    /// nothing until somebody touches them again. Pages that reach beyond the range are kept, and only its words zeroed.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a range that is empty or goes beyond the end; what `fallocate` answers.
    pub fn give_back(&self, range: Range<usize>) -> io::Result<()> {
        if range.is_empty() || range.end > self.words.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let bytes = |words: usize| i64::try_from(words * WORD).map_err(|_| io::ErrorKind::InvalidInput);
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        loop {
            match fallocate(&self.fd, flags, bytes(range.start)?, bytes(range.len())?) {
                Err(Errno::EINTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// The words. The mapping is never undone, hence `'static`.
    pub fn words(&self) -> &'static [AtomicU64] {
        self.words
    }
}

impl AsFd for SharedWords {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The first `count` words of such a file, without mapping it: enough to judge whether it is worth it.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] for a shorter file; what `pread` answers.
pub fn peek(fd: BorrowedFd<'_>, count: usize) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; count * WORD];
    read_at(fd, &mut bytes, 0)?;
    Ok(whole_words(&bytes).collect())
}

fn whole_words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let (words, _) = bytes.as_chunks::<WORD>();
    words.iter().map(|word| u64::from_ne_bytes(*word))
}

fn read_at(fd: BorrowedFd<'_>, mut bytes: &mut [u8], mut offset: usize) -> io::Result<()> {
    while !bytes.is_empty() {
        match pread(fd, bytes, i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                bytes = &mut bytes[read..];
                offset += read;
            }
            Err(Errno::EINTR) => {}
            Err(other) => return Err(other.into()),
        }
    }
    Ok(())
}

fn map(fd: &OwnedFd, count: NonZeroUsize) -> io::Result<&'static [AtomicU64]> {
    let bytes = NonZeroUsize::new(count.get() * WORD).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: a fresh mapping at an address the kernel picks aliases nothing of ours; `fd` is a memfd of `bytes` bytes.
    let start =
        unsafe { mmap(None, bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, fd, 0)? };
    // A core would hold what is kept of keys, and the kernel would provide every page to write it.
    // SAFETY: the mapping is ours and `bytes` long; the advice changes nothing about it but what a core holds.
    unsafe { madvise(start, bytes.get(), MmapAdvise::MADV_DONTDUMP)? };
    // SAFETY: the mapping is page aligned, `bytes` long and never unmapped. The file is sealed against shrinking, so
    // no access can fault for lack of a page. Any bit pattern is an `AtomicU64`. Other processes write the same words,
    // only through atomics of their own; that atomics work across processes is a property of the hardware that Rust's
    // memory model does not state, but which every user of shared memory relies on.
    Ok(unsafe { std::slice::from_raw_parts(start.as_ptr().cast::<AtomicU64>(), count.get()) })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;
    use crate::process::{self, Exit};

    #[test]
    fn starts_zeroed_and_is_seen_by_a_forked_process() {
        let shared = SharedWords::create(NonZeroUsize::new(1024).unwrap()).unwrap();
        assert!(shared.words().iter().all(|word| word.load(SeqCst) == 0));
        let words = shared.words();
        let child = process::spawn_unchecked_threads((), move |()| {
            words[1023].store(7, SeqCst);
            0
        })
        .unwrap();
        assert_eq!(process::wait(child).unwrap(), Exit::Code(0));
        assert_eq!(words[1023].load(SeqCst), 7);
    }

    #[test]
    fn is_adopted_with_what_it_holds() {
        let shared = SharedWords::create(NonZeroUsize::new(600).unwrap()).unwrap();
        shared.words()[599].store(5, SeqCst);
        let fd = || shared.as_fd().try_clone_to_owned().unwrap();
        let adopted = SharedWords::adopt(fd()).unwrap();
        assert_eq!((adopted.words().len(), adopted.words()[599].load(SeqCst)), (600, 5));
        adopted.words()[0].store(6, SeqCst);
        assert_eq!(shared.words()[0].load(SeqCst), 6);
        assert_eq!(peek(shared.as_fd(), 2).unwrap(), [6, 0]);
        assert_eq!(peek(shared.as_fd(), 601).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn only_sealed_memory_of_whole_words_is_adopted() {
        let memory = |bytes: i64, seals: SealFlag| {
            let fd = memfd_create(c"gate-test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
            ftruncate(&fd, bytes).unwrap();
            fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).unwrap();
            SharedWords::adopt(fd)
        };
        let fixed = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
        assert!(memory(16, fixed).is_ok());
        for (bytes, seals) in [(16, SealFlag::F_SEAL_GROW), (16, SealFlag::F_SEAL_SHRINK), (0, fixed), (12, fixed)] {
            assert_eq!(memory(bytes, seals).unwrap_err().kind(), io::ErrorKind::InvalidData, "{bytes} {seals:?}");
        }
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(SharedWords::adopt(file.into()).unwrap_err().to_string(), "not memory of a fixed size");
    }

    #[test]
    fn what_nobody_touched_is_read_for_nothing() {
        let count = 3 * PIECE_WORDS + 5;
        let shared = SharedWords::create(NonZeroUsize::new(count).unwrap()).unwrap();
        shared.words()[PIECE_WORDS + 1].store(7, SeqCst);
        let blocks = || fstat(&shared).unwrap().st_blocks;
        let before = blocks();
        let (mut seen, mut pieces) = (Vec::new(), 0);
        let mut sink = |words: &[u64]| {
            seen.extend_from_slice(words);
            pieces += 1;
        };
        shared.read_range(1..count, &mut sink).unwrap();
        assert_eq!((seen.len(), pieces), (count - 1, 4));
        assert_eq!(seen.iter().enumerate().filter(|(_, word)| **word != 0).collect::<Vec<_>>(), [(PIECE_WORDS, &7)]);
        assert_eq!(blocks(), before);
        assert!(shared.words().iter().map(|word| word.load(SeqCst)).sum::<u64>() == 7 && blocks() > before);
        shared.read_range(4..4, &mut |_| panic!("there is nothing to read")).unwrap();
        assert!(shared.read_range(0..count + 1, &mut |_| ()).is_err());
    }

    #[test]
    fn no_core_holds_the_words() {
        let shared = SharedWords::create(NonZeroUsize::new(512).unwrap()).unwrap();
        let adopted = SharedWords::adopt(shared.as_fd().try_clone_to_owned().unwrap()).unwrap();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        for memory in [&shared, &adopted] {
            let start = format!("{:x}-", memory.words().as_ptr().addr());
            let own = maps.split_once(&start).unwrap().1;
            let flags = own.lines().find(|line| line.starts_with("VmFlags:")).unwrap();
            assert!(flags.split_ascii_whitespace().any(|flag| flag == "dd"), "{flags}");
        }
    }

    #[test]
    fn what_is_given_back_is_zero_and_costs_nothing() {
        const PAGE: usize = 512;
        let shared = SharedWords::create(NonZeroUsize::new(8 * PAGE).unwrap()).unwrap();
        let words = shared.words();
        let blocks = || fstat(&shared).unwrap().st_blocks;
        for word in words {
            word.store(7, SeqCst);
        }
        let full = blocks();
        // Two whole pages and a word of the page behind.
        shared.give_back(2 * PAGE..4 * PAGE + 1).unwrap();
        assert_eq!(blocks(), full - full / 4);
        let zero: Vec<usize> = (0..words.len()).filter(|at| words[*at].load(SeqCst) == 0).collect();
        assert_eq!(zero, (2 * PAGE..=4 * PAGE).collect::<Vec<_>>());
        words[2 * PAGE].store(8, SeqCst);
        assert_eq!(words[2 * PAGE].load(SeqCst), 8, "and can be used again");
        for wrong in [4..4, 8 * PAGE - 1..8 * PAGE + 1] {
            assert_eq!(shared.give_back(wrong).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn cannot_be_resized() {
        let shared = SharedWords::create(NonZeroUsize::new(512).unwrap()).unwrap();
        assert!(ftruncate(&shared.fd, 0).is_err());
        assert!(ftruncate(&shared.fd, 1 << 20).is_err());
    }
}
