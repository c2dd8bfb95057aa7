//! Everything that a run did, as one hash, and as text for whoever wants to read it.
//!
//! Two runs of one seed and one build give the same hash. Whatever a node takes, writes, sends or decides is in
//! it, so that nothing can differ unseen.

use std::collections::VecDeque;
use std::fmt;

/// Bytes of lines that are hashed at once.
const HASHED_BYTES: usize = 64 * 1024;
/// Lines that are kept for the report of a failure.
const TAIL_LINES: usize = 40;

/// The effects of one run.
#[derive(Debug)]
pub struct Trace {
    hasher: blake3::Hasher,
    /// Lines that are not hashed yet.
    waiting: Vec<u8>,
    count: u64,
    line: String,
    tail: VecDeque<String>,
    all: Option<Vec<String>>,
}

impl Trace {
    /// A trace that keeps every line, or only the last ones.
    pub(crate) fn new(keep_all: bool) -> Self {
        Self {
            hasher: blake3::Hasher::new(),
            waiting: Vec::with_capacity(HASHED_BYTES),
            count: 0,
            line: String::new(),
            tail: VecDeque::new(),
            all: keep_all.then(Vec::new),
        }
    }

    /// Adds one effect.
    pub(crate) fn note(&mut self, at_ms: u64, what: fmt::Arguments<'_>) {
        use fmt::Write;
        self.line.clear();
        // Writing to a String does not fail.
        let _ = write!(self.line, "{at_ms:>9} {what}");
        if self.waiting.len() + self.line.len() >= HASHED_BYTES {
            self.hasher.update(&self.waiting);
            self.waiting.clear();
        }
        self.waiting.extend_from_slice(self.line.as_bytes());
        self.waiting.push(b'\n');
        self.count += 1;
        if let Some(all) = &mut self.all {
            all.push(self.line.clone());
        }
        if self.tail.len() == TAIL_LINES {
            let mut line = self.tail.pop_front().unwrap_or_default();
            line.clone_from(&self.line);
            self.tail.push_back(line);
        } else {
            self.tail.push_back(self.line.clone());
        }
    }

    /// The hash of everything so far.
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = self.hasher.clone();
        hasher.update(&self.waiting);
        *hasher.finalize().as_bytes()
    }

    /// How many effects there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The last lines.
    pub fn tail(&self) -> impl Iterator<Item = &str> {
        self.tail.iter().map(String::as_str)
    }

    /// All lines, if they were kept.
    pub fn lines(&self) -> &[String] {
        self.all.as_deref().unwrap_or_default()
    }
}

/// The first bytes of an id or hash, for a line of the trace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Short(u32);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// Shortens an id or hash to them.
pub(crate) fn short(bytes: &[u8; 32]) -> Short {
    let [a, b, c, d, ..] = *bytes;
    Short(u32::from_be_bytes([a, b, c, d]))
}
