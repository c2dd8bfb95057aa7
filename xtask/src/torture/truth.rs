//! What may be said of a trouble: to clients of the machine that has it, and in the log of its daemon. Anything else is
//! untrue, and the same line again and again is a flood.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::plan::Kind;

/// How often a daemon may log one line, numbers and names aside, for one trouble: each of its stores has its own disk
/// errors, of its log and of its state.
const REPEATS_MAX: usize = 10;

/// What is true all the same: what was compiled is not synced, so a disk that breaks takes it, and it is made again.
const TRUE_OF_COMPILED: &str = "compiled code is damaged; compiling again";

/// What nobody may say whatever the trouble is, because nothing is damaged, and nothing is a fault of the program.
const NEVER: [&str; 6] = [
    "damaged",
    "panicked",
    "backup",
    "corrupt",
    "report it",
    "another program",
];

/// What a client is told between the end of a daemon and its next start: what was begun is cut off, and the home may be
/// opening or closing.
const RESTART: [&str; 6] = [
    "the store is closed",
    "is locked by",
    "the connection",
    "shutting down",
    "is ending",
    "transport error",
];

/// What may be said of a kind: a part of each message.
fn truths(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Kill | Kind::Program => &[],
        Kind::Freeze => &["did not answer within"],
        Kind::FullDisk => &[
            "o space left",
            "torage full",
            "make room",
            "no storage space",
        ],
        Kind::ReadOnlyDisk => &["ead-only", "can only be read"],
        // While it is repaired it is not mounted.
        Kind::BrokenDisk => &["ead-only", "can only be read", "there is no home at"],
        Kind::Descriptors => &["ulimit -n", "did not answer within", "oo many open files"],
        // A machine that is cut off goes on by itself.
        Kind::Link => &[],
        Kind::ClockAhead | Kind::ClockBehind => &["clock"],
    }
}

fn restarts(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Kill | Kind::ReadOnlyDisk | Kind::BrokenDisk | Kind::Program
    )
}

/// Why a message to a client of a machine with such troubles, or with none, is untrue.
pub(super) fn untrue_to_clients(kinds: &[Kind], message: &str) -> Option<String> {
    if let Some(wrong) = NEVER.iter().find(|wrong| message.contains(**wrong)) {
        return Some(format!("says {wrong:?}"));
    }
    let is_true = |kind: &Kind| {
        let restart: &[&str] = if restarts(*kind) { &RESTART } else { &[] };
        truths(*kind)
            .iter()
            .chain(restart)
            .any(|truth| message.contains(truth))
    };
    match kinds.iter().any(is_true) {
        true => None,
        false => Some("does not say what the trouble is".to_owned()),
    }
}

/// Why a line of a daemon's log is untrue. Lines about what goes well are never.
fn untrue_in_log(kind: Option<Kind>, line: &str) -> Option<String> {
    let line = plain(line);
    if kind == Some(Kind::BrokenDisk) && line.contains(TRUE_OF_COMPILED) {
        return None;
    }
    if let Some(wrong) = NEVER.iter().find(|wrong| line.contains(**wrong)) {
        return Some(format!("says {wrong:?}"));
    }
    if !is_complaint(&line) {
        return None;
    }
    /// What a daemon may say of others that are in trouble, and of the clock of its machine.
    const OF_OTHERS: [&str; 2] = ["clock", "peers were not reached"];
    let truths = kind.map_or(&[][..], truths);
    let is_true = truths
        .iter()
        .chain(&OF_OTHERS)
        .any(|truth| line.contains(truth));
    (!is_true).then(|| "does not say what the trouble is".to_owned())
}

fn is_complaint(line: &str) -> bool {
    line.contains(" WARN ") || line.contains(" ERROR ") || line.starts_with("error")
}

/// A line without the colours of a terminal.
fn plain(line: &str) -> String {
    let mut text = String::new();
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\u{1b}' => while letters.next().is_some_and(|letter| letter != 'm') {},
            letter => text.push(letter),
        }
    }
    text
}

/// What is the same in lines about the same: words without digits and what is between them.
fn pattern(line: &str) -> String {
    let word = |word: &str| match word.contains(|letter: char| letter.is_ascii_digit()) {
        true => "#".to_owned(),
        false => word.to_owned(),
    };
    let words: Vec<String> = plain(line).split_whitespace().map(word).collect();
    words.join(" ")
}

/// What is wrong with the lines that a daemon logged during a trouble, or without one.
pub(super) fn faults_of_log(kind: Option<Kind>, lines: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines {
        if let Some(why) = untrue_in_log(kind, line) {
            faults.push(format!("a line of the log {why}: {}", plain(line)));
        }
        if is_complaint(&plain(line)) {
            *counts.entry(pattern(line)).or_default() += 1;
        }
    }
    for (pattern, count) in counts {
        if count > REPEATS_MAX {
            faults.push(format!("a line of the log came {count} times: {pattern}"));
        }
    }
    faults
}

/// The troubles of a machine, with when they began and ended.
#[derive(Debug, Default)]
pub(super) struct Troubles(Mutex<Vec<(Kind, Instant, Option<Instant>)>>);

impl Troubles {
    /// How long a client may have waited before it says what went wrong.
    const PATIENCE: Duration = Duration::from_secs(60);

    pub(super) fn begin(&self, kind: Kind) {
        let mut all = self.0.lock().expect("no holder panics");
        all.retain(|(_, _, end)| end.is_none_or(|end| end.elapsed() < Self::PATIENCE));
        all.push((kind, Instant::now(), None));
    }

    pub(super) fn end(&self) {
        let mut all = self.0.lock().expect("no holder panics");
        let last = all.last_mut().expect("it began");
        last.2 = Some(Instant::now());
    }

    /// The kinds of which some time lies between then and now.
    pub(super) fn since(&self, then: Instant) -> Vec<Kind> {
        let all = self.0.lock().expect("no holder panics");
        all.iter()
            .filter(|(_, _, end)| end.is_none_or(|end| end >= then))
            .map(|(kind, _, _)| *kind)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_true_of_its_trouble_and_untrue_of_another_and_of_none() {
        let full = "error: log/: No space left on device; make room on the disk";
        assert_eq!(untrue_to_clients(&[Kind::FullDisk], full), None);
        assert!(untrue_to_clients(&[Kind::Link], full).is_some());
        assert!(untrue_to_clients(&[], full).is_some());
        let damage = "error: log/ is damaged: No space left on device";
        assert!(untrue_to_clients(&[Kind::FullDisk], damage).is_some());
    }

    #[test]
    fn a_line_that_comes_again_and_again_is_a_flood() {
        let line = |n| {
            format!(
                "2026-01-01T00:00:0{n}Z \u{1b}[31mERROR\u{1b}[0m lattice: No space left, {n} left"
            )
        };
        let few: Vec<String> = (0..REPEATS_MAX).map(line).collect();
        assert_eq!(faults_of_log(Some(Kind::FullDisk), &few), [""; 0]);
        let many: Vec<String> = (0..=REPEATS_MAX).map(line).collect();
        assert_eq!(faults_of_log(Some(Kind::FullDisk), &many).len(), 1);
    }

    #[test]
    fn troubles_are_those_since_a_moment() {
        let troubles = Troubles::default();
        let before = Instant::now();
        troubles.begin(Kind::Kill);
        assert_eq!(troubles.since(Instant::now()), [Kind::Kill]);
        troubles.end();
        let after = Instant::now() + Duration::from_millis(1);
        troubles.begin(Kind::Link);
        assert_eq!(troubles.since(before), [Kind::Kill, Kind::Link]);
        assert_eq!(troubles.since(after), [Kind::Link]);
    }
}
