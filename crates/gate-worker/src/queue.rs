//! What a worker does for those of its requests that wait for a backend: it hears its bell, and looks by itself now and then.
//!
//! Invariant: without the bell everything still happens, a tenth of a second later.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use gate_upstream::{Fleet, LOOK};
use tokio::net::unix::pipe::Receiver;
use tokio::time::sleep;

/// What an eventfd counts.
const COUNT: usize = 8;

/// Looks for ever, while somebody waits.
pub(crate) async fn look(fleet: Rc<Fleet>) {
    loop {
        fleet.one_waits().await;
        sleep(LOOK).await;
        fleet.look();
    }
}

/// Hears the bell for ever.
///
/// # Errors
/// The event loop cannot watch it.
pub(crate) fn hear(fleet: Rc<Fleet>, ear: OwnedFd) -> io::Result<impl Future<Output = ()>> {
    // No pipe, but read as one: it is readable, and what is read is gone.
    let bell = Receiver::from_owned_fd_unchecked(ear)?;
    Ok(async move {
        while bell.readable().await.is_ok() {
            // Read before the look, so that a ring behind it is heard.
            match bell.try_read(&mut [0; COUNT]) {
                Ok(_) => fleet.attend(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    log::error!("cannot hear the bell: {error}; requests in the queue are woken later");
                    return;
                }
            }
        }
    })
}
