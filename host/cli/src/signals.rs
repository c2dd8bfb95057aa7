//! The signals that end a process in order: SIGINT, SIGTERM and SIGHUP.

use std::future::pending;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Failure, Result};

/// Receives the signals from the moment it is made.
pub(crate) struct Signals {
    interrupt: Option<Signal>,
    terminate: Signal,
    hangup: Option<Signal>,
}

/// Begins to catch the signals. From here on they do not end the process by themselves.
pub(crate) fn listen() -> Result<Signals> {
    Ok(Signals {
        interrupt: Some(open(SignalKind::interrupt())?),
        ..listen_for_the_end()?
    })
}

/// The same without SIGINT, which means something else at a prompt.
pub(crate) fn listen_for_the_end() -> Result<Signals> {
    let is_deaf =
        std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status));
    Ok(Signals {
        interrupt: None,
        terminate: open(SignalKind::terminate())?,
        // Who started this under nohup wants it to stay when the terminal goes.
        hangup: match is_deaf {
            true => None,
            false => Some(open(SignalKind::hangup())?),
        },
    })
}

fn open(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|error| Failure::failed(format!("cannot wait for signals: {error}")))
}

/// Whether a process ignores SIGHUP, by its status as Linux tells it: a bit for each signal, from the first.
fn ignores_hangup(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let bits = ignored.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    bits.is_some_and(|bits| bits & 1 == 1)
}

impl Signals {
    /// Waits for the next signal and returns its name.
    pub(crate) async fn recv(&mut self) -> &'static str {
        tokio::select! {
            () = heard(&mut self.interrupt) => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            () = heard(&mut self.hangup) => "SIGHUP",
        }
    }
}

async fn heard(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ignores_sighup_is_known_by_its_status() {
        assert!(ignores_hangup(
            "Name:\tlattice\nSigIgn:\t0000000000001001\n"
        ));
        assert!(!ignores_hangup(
            "Name:\tlattice\nSigIgn:\t0000000000001000\n"
        ));
        assert!(!ignores_hangup(""));
    }
}
