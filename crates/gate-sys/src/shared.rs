//! Memory that all processes of one gate share: a sealed memfd of 64-bit words.
//!
//! It hands out atomic words and nothing else: no structs, no pointers, no locks. A process killed at any instruction
//! leaves nothing held, and zero is a valid value of every word.

use std::ffi::CStr;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::unistd::ftruncate;

/// Name of the memfd, as `/proc/PID/maps` shows it.
const NAME: &CStr = c"ollama-gate-zone";

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
        let bytes = count.get().checked_mul(size_of::<AtomicU64>()).ok_or(io::ErrorKind::InvalidInput)?;
        ftruncate(&fd, i64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?)?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL))?;
        let words = map(&fd, count)?;
        Ok(Self { fd, words })
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

fn map(fd: &OwnedFd, count: NonZeroUsize) -> io::Result<&'static [AtomicU64]> {
    let bytes = NonZeroUsize::new(count.get() * size_of::<AtomicU64>()).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: a fresh mapping at an address the kernel picks aliases nothing of ours; `fd` is a memfd of `bytes` bytes.
    let start =
        unsafe { mmap(None, bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, fd, 0)? };
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
    fn cannot_be_resized() {
        let shared = SharedWords::create(NonZeroUsize::new(512).unwrap()).unwrap();
        assert!(ftruncate(&shared.fd, 0).is_err());
        assert!(ftruncate(&shared.fd, 1 << 20).is_err());
    }
}
