//! The signals that ask a process to end: SIGINT and SIGTERM.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Failure, Result};

/// Receives the signals from the moment it is made.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// Begins to catch the signals. From here on they do not end the process by themselves.
pub(crate) fn listen() -> Result<Signals> {
    let open = |kind| {
        signal(kind).map_err(|error| Failure::failed(format!("cannot wait for signals: {error}")))
    };
    Ok(Signals {
        interrupt: open(SignalKind::interrupt())?,
        terminate: open(SignalKind::terminate())?,
    })
}

impl Signals {
    /// Waits for the next signal and returns its name.
    pub(crate) async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
