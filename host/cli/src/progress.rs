//! Progress bars on standard error, at terminals only, for work that takes longer than a second.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::text;

/// How long work takes before its bar is shown.
const SHOWN_AFTER: Duration = Duration::from_secs(1);
/// The interval at which a bar is redrawn, also without progress, to show that the process is alive.
const TICK: Duration = Duration::from_millis(120);

/// A progress bar. It appears after a second, and only if standard error is a terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
    started: Instant,
    watched: bool,
}

/// What the numbers of a bar count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bytes, shown with a binary unit.
    Bytes,
    /// Anything else, shown as plain numbers.
    Things,
}

impl Progress {
    /// A bar that is not shown yet.
    pub(crate) fn new() -> Progress {
        Progress {
            bar: ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()),
            started: Instant::now(),
            watched: io::stderr().is_terminal(),
        }
    }

    /// Updates the bar: `doing` names the work, of which `done` units of `total` are done. `total` is 0 while it is
    /// not known.
    pub(crate) fn set(&mut self, doing: &str, done: u64, total: u64, unit: Unit) {
        if !self.watched {
            return;
        }
        if self.bar.is_hidden() && self.started.elapsed() >= SHOWN_AFTER {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.bar.enable_steady_tick(TICK);
        }
        self.bar.set_style(style(total, unit));
        if total > 0 {
            self.bar.set_length(total);
        }
        self.bar.set_position(done);
        self.bar.set_message(text::line(doing));
    }

    /// Removes the bar.
    pub(crate) fn finish(self) {
        self.bar.finish_and_clear();
    }
}

fn style(total: u64, unit: Unit) -> ProgressStyle {
    let template = match (total > 0, unit) {
        (true, Unit::Bytes) => "{msg}  {bar:30}  {bytes} of {total_bytes}",
        (true, Unit::Things) => "{msg}  {bar:30}  {pos} of {len}",
        (false, Unit::Bytes) => "{spinner} {msg}  {bytes}",
        (false, Unit::Things) => "{spinner} {msg}  {pos}",
    };
    ProgressStyle::with_template(template)
        .expect("these templates are well formed; a test builds each")
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_well_formed() {
        for total in [0, 1] {
            for unit in [Unit::Bytes, Unit::Things] {
                style(total, unit);
            }
        }
    }
}
