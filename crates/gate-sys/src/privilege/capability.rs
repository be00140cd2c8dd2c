//! The capabilities of this process: what they are, and giving them up.
//!
//! They can only become fewer here. Invariant: a set is changed for the calling thread, so everything here belongs
//! before the first further thread.

use std::io;

use nix::errno::Errno;

/// What capset(2) and capget(2) call the layout with two words for each set.
const VERSION_3: u32 = 0x2008_0522;

/// Capabilities that a set of 64 bits has room for; the kernel knows fewer.
const ROOM: u32 = u64::BITS;

/// One capability, by the kernel's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Capability {
    Chown = 0,
    DacOverride = 1,
    Kill = 5,
    SetGid = 6,
    SetUid = 7,
    SetPcap = 8,
    NetBindService = 10,
}

/// Some capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Set(u64);

impl Set {
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn of(capabilities: &[Capability]) -> Self {
        Self(capabilities.iter().fold(0, |bits, capability| bits | 1 << *capability as u8))
    }

    pub(crate) fn has(self, capability: Capability) -> bool {
        self.has_number(u32::from(capability as u8))
    }

    pub(crate) fn within(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    fn has_number(self, number: u32) -> bool {
        self.0 >> number & 1 == 1
    }
}

/// The three sets that capset(2) changes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) effective: Set,
    pub(crate) permitted: Set,
    pub(crate) inheritable: Set,
}

impl Held {
    pub(crate) const NOTHING: Self = Self { effective: Set::NONE, permitted: Set::NONE, inheritable: Set::NONE };

    /// What this thread holds.
    pub(crate) fn now() -> io::Result<Self> {
        let (mut header, mut words) = (Header::own(), [Words::default(); 2]);
        // SAFETY: version 3 has the kernel write two `Words`; both pointers are valid for the call, and the kernel
        // keeps neither.
        let done = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) };
        told(done)?;
        let set = |of: fn(&Words) -> u32| Set(u64::from(of(&words[0])) | u64::from(of(&words[1])) << 32);
        Ok(Self {
            effective: set(|words| words.effective),
            permitted: set(|words| words.permitted),
            inheritable: set(|words| words.inheritable),
        })
    }

    /// Holds exactly these from now on. What leaves the permitted or the inheritable set leaves the ambient one too.
    pub(crate) fn assume(self) -> io::Result<()> {
        let half = |shift: u32| Words {
            effective: (self.effective.0 >> shift) as u32,
            permitted: (self.permitted.0 >> shift) as u32,
            inheritable: (self.inheritable.0 >> shift) as u32,
        };
        let (mut header, words) = (Header::own(), [half(0), half(32)]);
        // SAFETY: version 3 has the kernel read two `Words`; both pointers are valid for the call, and the kernel
        // keeps neither.
        told(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, words.as_ptr()) })
    }
}

/// What no file that this process executes can bring back.
pub(crate) fn bounding() -> io::Result<Set> {
    let mut set = Set::NONE;
    for number in 0..ROOM {
        match bounded(number)? {
            Some(true) => set.0 |= 1 << number,
            Some(false) => {}
            None => break,
        }
    }
    Ok(set)
}

/// Takes all but `keep` out of the bounding set.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`.
pub(crate) fn bound_to(keep: Set) -> io::Result<()> {
    let dropped = Set(bounding()?.0 & !keep.0);
    for number in (0..ROOM).filter(|number| dropped.has_number(*number)) {
        // SAFETY: this option takes a number and no pointer.
        let done = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) };
        told(done.into())?;
    }
    Ok(())
}

/// Whether a capability is in the bounding set; `None` when the kernel knows none of that number.
fn bounded(number: u32) -> io::Result<Option<bool>> {
    // SAFETY: this option takes a number and no pointer.
    let found = unsafe { libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(number), 0, 0, 0) };
    match (found, Errno::last()) {
        (0, _) => Ok(Some(false)),
        (1, _) => Ok(Some(true)),
        (_, Errno::EINVAL) => Ok(None),
        (_, other) => Err(other.into()),
    }
}

fn told(done: libc::c_long) -> io::Result<()> {
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

impl Header {
    fn own() -> Self {
        Self { version: VERSION_3, pid: 0 }
    }
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Words {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}
