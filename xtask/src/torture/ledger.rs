//! The ledger: every call that a client made, and whether it was acknowledged. What was must be in its store once,
//! what was not at most once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::machine::Machine;

/// The stores, and the bundled plugins of which they are made.
pub(super) const STORES: [(&str, &str); 3] =
    [("records", "log"), ("notes", "kv"), ("clicks", "counter")];
/// Items of a page.
const PAGE: &str = "1000";

/// A call that no other call is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// The place of its store in [`STORES`].
    store: usize,
    /// What tells it from others.
    pub(super) mark: String,
}

impl Call {
    /// The words of the command line that make it.
    pub(super) fn words(&self) -> Vec<&str> {
        let store = STORES[self.store].0;
        match self.store {
            0 => vec!["call", store, "append", &self.mark],
            1 => vec!["call", store, "put", &self.mark, &self.mark],
            _ => vec!["call", store, "add", "1"],
        }
    }
}

/// What was acknowledged to clients of one machine, and what was not.
#[derive(Clone, Debug, Default)]
struct Page {
    acknowledged: BTreeSet<String>,
    other: BTreeSet<String>,
}

/// All calls, by store and machine.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    made: u64,
    pages: BTreeMap<(usize, usize), Page>,
}

impl Ledger {
    /// The next call of a machine, which counts as not acknowledged.
    pub(super) fn next(&self, machine: usize, store: usize) -> Call {
        let mut state = self.0.lock().expect("no holder panics");
        state.made += 1;
        let mark = format!("m{machine}-{}", state.made);
        let page = state.pages.entry((store, machine)).or_default();
        page.other.insert(mark.clone());
        Call { store, mark }
    }

    /// Notes that a call was acknowledged.
    pub(super) fn acknowledged(&self, machine: usize, call: &Call) {
        let mut state = self.0.lock().expect("no holder panics");
        let page = state.pages.entry((call.store, machine)).or_default();
        page.other.remove(&call.mark);
        page.acknowledged.insert(call.mark.clone());
    }

    /// How many calls were acknowledged, and how many were made.
    pub(super) fn counts(&self) -> (usize, u64) {
        let state = self.0.lock().expect("no holder panics");
        let acknowledged = state.pages.values().map(|page| page.acknowledged.len());
        (acknowledged.sum(), state.made)
    }

    fn pages(&self, store: usize, of: Option<usize>) -> Page {
        let state = self.0.lock().expect("no holder panics");
        let mut all = Page::default();
        for ((_, _), page) in state
            .pages
            .iter()
            .filter(|((s, machine), _)| *s == store && of.is_none_or(|of| of == *machine))
        {
            all.acknowledged.extend(page.acknowledged.iter().cloned());
            all.other.extend(page.other.iter().cloned());
        }
        all
    }

    /// Checks that a machine has what its own clients were told.
    ///
    /// # Errors
    ///
    /// When something is lost or there twice; the text names it.
    pub(super) fn check_own(&self, machine: &Machine) -> Result<()> {
        let own = Some(machine.number);
        let expected = [self.pages(0, own), self.pages(1, own)];
        check_records(machine, &expected[0])?;
        check_notes(machine, &expected[1])
    }

    /// Checks that a machine has all that any client was told, and nothing that no client asked for, when no client
    /// makes calls any more.
    ///
    /// # Errors
    ///
    /// As [`Ledger::check_own`].
    pub(super) fn check_all(&self, machine: &Machine) -> Result<()> {
        let records = self.pages(0, None);
        check_records(machine, &records)?;
        for mark in found_records(machine)?.keys() {
            let is_known = records.acknowledged.contains(mark) || records.other.contains(mark);
            ensure!(
                is_known,
                "{} has the record {mark}, which nobody wrote",
                machine.name()
            );
        }
        check_notes(machine, &self.pages(1, None))?;
        let clicks = self.pages(2, None);
        let value = machine.text(&["query", "clicks", "value"])?;
        let value: usize = value
            .parse()
            .with_context(|| format!("clicks is {value}"))?;
        let least = clicks.acknowledged.len();
        let most = least + clicks.other.len();
        ensure!(
            (least..=most).contains(&value),
            "{} counts {value} clicks; {least} were acknowledged and {most} made",
            machine.name()
        );
        Ok(())
    }
}

fn check_records(machine: &Machine, expected: &Page) -> Result<()> {
    let found = found_records(machine)?;
    for mark in &expected.acknowledged {
        let count = found.get(mark).copied().unwrap_or(0);
        ensure!(
            count == 1,
            "{} has the record {mark} {count} times, which was acknowledged once",
            machine.name()
        );
    }
    for mark in &expected.other {
        let count = found.get(mark).copied().unwrap_or(0);
        ensure!(
            count <= 1,
            "{} has the record {mark} {count} times",
            machine.name()
        );
    }
    Ok(())
}

/// How often each record is in the log.
fn found_records(machine: &Machine) -> Result<BTreeMap<String, usize>> {
    let mut found = BTreeMap::new();
    let mut after = "none".to_owned();
    loop {
        let answer = machine.json(&["query", "records", "read", &after, PAGE])?;
        let page = &answer["value"];
        for item in page["items"].as_array().context("a page has items")? {
            *found.entry(decoded(&item["data"])?).or_insert(0) += 1;
        }
        match &page["next"] {
            Value::String(next) => {
                let id = bytes(next)?;
                let digits: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
                after = format!("@hex:{digits}");
            }
            _ => return Ok(found),
        }
    }
}

fn check_notes(machine: &Machine, expected: &Page) -> Result<()> {
    let mut found = BTreeMap::new();
    let mut after = Value::Null;
    loop {
        let given = match &after {
            Value::String(key) => key.clone(),
            _ => "none".to_owned(),
        };
        let answer = machine.json(&["query", "notes", "list", "", &given, PAGE])?;
        let page = &answer["value"];
        for pair in page["pairs"].as_array().context("a page has pairs")? {
            let key = pair["key"].as_str().context("a pair has a key")?;
            found.insert(key.to_owned(), decoded(&pair["value"])?);
        }
        after = page["next"].clone();
        if after.is_null() {
            break;
        }
    }
    for mark in &expected.acknowledged {
        ensure!(
            found.get(mark) == Some(mark),
            "{} has {:?} at the key {mark}, which was acknowledged",
            machine.name(),
            found.get(mark)
        );
    }
    Ok(())
}

fn decoded(value: &Value) -> Result<String> {
    let text = value.as_str().context("bytes are text in JSON")?;
    Ok(String::from_utf8(bytes(text)?)?)
}

fn bytes(text: &str) -> Result<Vec<u8>> {
    STANDARD
        .decode(text)
        .map_err(|error| anyhow!("{text:?} is not base64: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_not_acknowledged_until_it_is() {
        let ledger = Ledger::default();
        let (first, second) = (ledger.next(1, 0), ledger.next(1, 0));
        assert_ne!(first.mark, second.mark);
        ledger.acknowledged(1, &second);
        assert_eq!(ledger.counts(), (1, 2));
        let page = ledger.pages(0, Some(1));
        assert!(page.other.contains(&first.mark) && page.acknowledged.contains(&second.mark));
        assert!(ledger.pages(0, Some(2)).acknowledged.is_empty());
    }
}
