//! What the service manager is told, by the protocol of `sd_notify(3)`. Without `NOTIFY_SOCKET` nothing happens here.
//!
//! Nothing blocks: a message that the manager does not take at once is lost, and told to the log once.

use std::io;
use std::os::fd::BorrowedFd;

use gate_sys::clock;
use gate_sys::notify::Notifier;
use gate_sys::process::Pid;

use crate::event::Ms;

/// How often the manager is asked for more time while the gate drains.
const EXTEND_EVERY_MS: Ms = 5_000;

/// For how much: three times as long, so that one lost message does no harm.
const EXTEND_BY_MS: Ms = 15_000;

/// How soon the gate's health is looked at again when it was poor.
const LOOK_AGAIN_MS: Ms = 500;

/// Longest text behind the unit's name.
const STATUS_MAX: usize = 512;

/// How often the text behind the unit's name is brought up to date while nothing else is said.
const STATUS_EVERY_MS: Ms = 10_000;

/// When a descriptor is offered again that the manager did not take.
const OFFER_AGAIN_MS: Ms = 1_000;

/// The way to the manager.
pub(crate) struct Systemd {
    notifier: Option<Notifier>,
    /// How often the watchdog is fed: half of what the manager allows.
    feed_every: Option<Ms>,
    next_feed: Ms,
    next_extension: Option<Ms>,
    next_status: Ms,
    next_offer: Option<Ms>,
    status: String,
    lost: Lost,
}

/// Whether a descriptor is in the manager's keeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// It is, or will never be.
    Settled,
    /// It is to be offered again.
    Pending,
}

/// Whether a message has been lost since the last one that arrived.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lost {
    No,
    Yes,
}

/// Whether every place has a process that does its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    Good,
    Poor,
}

impl Systemd {
    /// As the environment says.
    pub(crate) fn open() -> Self {
        let notifier = Notifier::from_environment();
        let feed_every = notifier.as_ref().and_then(Notifier::watchdog).map(|every| every.as_millis() as Ms / 2);
        Self {
            notifier,
            feed_every,
            next_feed: 0,
            next_extension: None,
            next_status: 0,
            next_offer: None,
            status: String::new(),
            lost: Lost::No,
        }
    }

    fn send(&mut self, text: &str) {
        let Some(notifier) = &self.notifier else { return };
        match notifier.send(text) {
            Ok(()) => self.lost = Lost::No,
            Err(error) => self.note_loss(&error),
        }
    }

    fn note_loss(&mut self, error: &io::Error) {
        if self.lost == Lost::No {
            self.lost = Lost::Yes;
            log::warn!("the service manager does not take messages: {error}");
        }
    }

    /// The gate serves.
    pub(crate) fn ready(&mut self, status: &str) {
        // A line break would begin another assignment, and the text may come from a child.
        let status: String = status.chars().map(|c| if c.is_control() { ' ' } else { c }).take(STATUS_MAX).collect();
        status.clone_into(&mut self.status);
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// A reload begins. Its end is [`Systemd::ready`], whichever way it ends.
    pub(crate) fn reloading(&mut self) {
        // The two belong into one message: without the time of its begin the manager fails a notify-reload.
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reloading", clock::monotonic_us()));
    }

    /// The gate stops; from here on [`Systemd::tend`] asks for the time it takes.
    pub(crate) fn stopping(&mut self, now: Ms) {
        self.send("STOPPING=1");
        self.next_extension = Some(now);
    }

    /// Another process is the main one from here on.
    pub(crate) fn main_pid(&mut self, pid: Pid) {
        self.send(&format!("MAINPID={pid}"));
    }

    /// Gives a descriptor into the manager's keeping, in place of all that had this name.
    pub(crate) fn store(&mut self, name: &str, descriptor: BorrowedFd<'_>, now: Ms) -> Offer {
        let Some(notifier) = &self.notifier else { return Offer::Settled };
        let stored = notifier.unstore(name).and_then(|()| notifier.store(name, descriptor));
        self.settled(stored, name, now)
    }

    /// Takes one out of its keeping.
    pub(crate) fn unstore(&mut self, name: &str, now: Ms) -> Offer {
        let Some(notifier) = &self.notifier else { return Offer::Settled };
        let unstored = notifier.unstore(name);
        self.settled(unstored, name, now)
    }

    /// Whether it is time to say what is to be kept.
    pub(crate) fn may_offer(&mut self, now: Ms) -> bool {
        self.next_offer.take_if(|at| now >= *at);
        self.notifier.is_some() && self.next_offer.is_none()
    }

    fn settled(&mut self, done: io::Result<()>, name: &str, now: Ms) -> Offer {
        match done {
            Ok(()) => Offer::Settled,
            // A name that is too long does not become shorter.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                log::warn!("the service manager cannot keep {name}: {error}");
                Offer::Settled
            }
            Err(error) => {
                self.note_loss(&error);
                self.next_offer = Some(now + OFFER_AGAIN_MS);
                Offer::Pending
            }
        }
    }

    /// When there is next something to say by itself.
    pub(crate) fn due(&self) -> Option<Ms> {
        self.notifier.as_ref()?;
        let feed = self.feed_every.map(|_| self.next_feed);
        [feed, self.next_extension, self.next_offer].into_iter().flatten().min()
    }

    /// Says what is due: the watchdog is fed only while the gate is well, so that the manager sees what nobody else does.
    pub(crate) fn tend(&mut self, now: Ms, health: Health, status: impl FnOnce() -> String) {
        if self.notifier.is_none() {
            return;
        }
        if let Some(every) = self.feed_every
            && now >= self.next_feed
        {
            let stopping = self.next_extension.is_some();
            if health == Health::Good || stopping {
                self.next_feed = now + every;
                self.send("WATCHDOG=1");
            } else {
                // A place that is tried again fills itself for a moment: then is the time.
                self.next_feed = now + LOOK_AGAIN_MS.min(every);
            }
        }
        if self.next_extension.is_some_and(|at| now >= at) {
            self.next_extension = Some(now + EXTEND_EVERY_MS);
            self.send(&format!("EXTEND_TIMEOUT_USEC={}", EXTEND_BY_MS * 1_000));
        }
        if now >= self.next_status {
            self.next_status = now + STATUS_EVERY_MS;
            let status = status();
            if status != self.status {
                self.send(&format!("STATUS={status}"));
                self.status = status;
            }
        }
    }
}
