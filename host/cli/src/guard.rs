//! Commands that a signal can end.

use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::signals;

/// How a command ends at a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtSignal {
    /// The command is given up, and fails.
    GiveUp,
    /// The command succeeds, because only a signal ends it.
    End,
}

/// Runs a command until it is done, or until SIGINT, SIGTERM or SIGHUP ends it.
///
/// Before the command asks for the node it only reads its arguments, perhaps from a pipe that never ends. Until
/// then signals are not caught: one ends the process at once, and nothing is lost.
pub(crate) async fn interruptible(
    context: &Context,
    at_signal: AtSignal,
    command: impl Future<Output = Result<()>>,
) -> Result<()> {
    tokio::pin!(command);
    tokio::select! {
        biased;
        done = &mut command => return done,
        () = context.opening() => {}
    }
    let mut signals = signals::listen()?;
    tokio::select! {
        biased;
        done = &mut command => done,
        name = signals.recv() => match at_signal {
            AtSignal::End => Ok(()),
            AtSignal::GiveUp => Err(Failure::failed(format!("given up at {name}"))
                .hint("what the node had begun, it may still complete")),
        },
    }
}
