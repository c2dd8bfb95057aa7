//! Log lines, to standard error and best effort: nothing that a node does waits for a line, or fails with it.
//!
//! Standard error may be a file on a full disk, a pipe whose reader is gone, or one whose reader stands still. So a
//! thread of its own writes the lines, errors are nobody's, and lines that come faster than they are read are counted
//! instead of kept.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Lines that wait to be written; further ones are counted.
const WAITING_MAX: usize = 1024;
/// How long the end of the process waits for lines that are not written yet.
const LAST_WAIT: Duration = Duration::from_millis(200);

static WAY: OnceLock<SyncSender<Message>> = OnceLock::new();
static LOST: AtomicU64 = AtomicU64::new(0);

enum Message {
    Line(Vec<u8>),
    /// All lines before this one are written.
    Told(SyncSender<()>),
}

/// Takes one line after the other, and never fails.
pub(crate) struct Lines;

impl Lines {
    /// Begins to write lines. Without a thread to spare, each is written by whoever has it to say.
    pub(crate) fn begin() {
        let (way, lines) = sync_channel(WAITING_MAX);
        let begun = std::thread::Builder::new()
            .name("log".into())
            .spawn(move || write(&lines, io::stderr(), &LOST));
        if begun.is_ok() {
            // The first stays.
            let _ = WAY.set(way);
        }
    }

    /// Waits a moment until the lines so far are written.
    pub(crate) fn end() {
        let Some(way) = WAY.get() else { return };
        let (told, hears) = sync_channel(1);
        if way.try_send(Message::Told(told)).is_ok() {
            let _ = hears.recv_timeout(LAST_WAIT);
        }
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match WAY.get() {
            None => {
                let _ = io::stderr().write_all(line);
            }
            Some(way) => {
                if way.try_send(Message::Line(line.to_vec())).is_err() {
                    LOST.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes what comes until nothing more can.
fn write(lines: &Receiver<Message>, mut to: impl Write, lost: &AtomicU64) {
    while let Ok(message) = lines.recv() {
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(
                to,
                "{lost} lines of this log were not read in time and are lost"
            );
        }
        match message {
            Message::Line(line) => {
                let _ = to.write_all(&line);
            }
            Message::Told(told) => {
                let _ = told.try_send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream of which every second write fails.
    struct Failing(Vec<u8>, bool);

    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 = !self.1;
            match self.1 {
                true => Err(io::ErrorKind::StorageFull.into()),
                false => self.0.write(bytes),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_or_kept_are_lost_and_the_next_ones_are_not() {
        let (way, lines) = sync_channel(WAITING_MAX);
        for n in 0..WAITING_MAX {
            let line = format!("line {n}\n").into_bytes();
            way.try_send(Message::Line(line)).expect("there is room");
        }
        let beyond = way.try_send(Message::Line(b"beyond\n".to_vec()));
        assert!(beyond.is_err());
        drop(way);
        let mut to = Failing(Vec::new(), false);
        write(&lines, &mut to, &AtomicU64::new(0));
        let written = String::from_utf8(to.0).expect("UTF-8");
        assert_eq!(written.lines().count(), WAITING_MAX / 2);
        assert!(written.starts_with("line 1\nline 3\n"), "{written}");
    }

    #[test]
    fn the_number_of_lost_lines_is_said_once() {
        let (way, lines) = sync_channel(2);
        for line in ["one\n", "two\n"] {
            let sent = way.try_send(Message::Line(line.into()));
            sent.expect("there is room");
        }
        drop(way);
        let mut to = Vec::new();
        write(&lines, &mut to, &AtomicU64::new(3));
        let written = String::from_utf8(to).expect("UTF-8");
        let expected = "3 lines of this log were not read in time and are lost\none\ntwo\n";
        assert_eq!(written, expected);
    }
}
