//! Ctrl-C and its like, as a flag that every wait looks at: so guards are dropped, and with them all servers end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

use crate::complaint::Complaint;

static ASKED_TO_STOP: AtomicBool = AtomicBool::new(false);

/// Catches INT, TERM and HUP from here on. Returns when they are caught.
pub(crate) fn watch() -> Result<(), Complaint> {
    let (caught, when_caught) = mpsc::channel();
    thread::Builder::new()
        .name("interrupt".to_owned())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let outcome = runtime.map(|runtime| runtime.block_on(flag_first(&caught)));
            // The receiver is gone once a first report was made; then there is nobody left to tell.
            caught.send(outcome.and_then(|inner| inner)).ok();
        })
        .map_err(Complaint::io("starting a thread"))?;
    when_caught.recv().unwrap_or(Ok(())).map_err(Complaint::io("catching signals"))
}

/// Says that it listens, then waits for a signal, for ever.
async fn flag_first(caught: &mpsc::Sender<std::io::Result<()>>) -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    caught.send(Ok(())).ok();
    std::future::poll_fn(|context| {
        let any =
            [&mut interrupt, &mut terminate, &mut hangup].into_iter().any(|one| one.poll_recv(context).is_ready());
        if any { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    ASKED_TO_STOP.store(true, Ordering::Relaxed);
    // Later signals change nothing: ending the servers is bounded and under way.
    std::future::pending().await
}

/// [`Complaint::Interrupted`] once a signal came.
pub(crate) fn check() -> Result<(), Complaint> {
    if ASKED_TO_STOP.load(Ordering::Relaxed) { Err(Complaint::Interrupted) } else { Ok(()) }
}
