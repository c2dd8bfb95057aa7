//! The history of a store: its entries in canonical order, with calls and outcomes.

use std::sync::Arc;

use lattice_format::{
    Body, Call, DeviceKey, Genesis, IntentionId, Lane, Param, Position, Time, Transaction,
};
use lattice_kernel::{HistoryRow, Outcome, Snapshot};
use lattice_net::Governance;
use lattice_runtime::Function;
use lattice_runtime::values::{Type, Value, cbor};
use prost::Message as _;

use crate::api;
use crate::api::failure::{Failure, Result};
use crate::api::outcome::{self, Forms};
use crate::api::page::{Page, item_bytes};
use crate::limits::{HISTORY_ROWS_MAX, PAGE_BYTES_MAX};
use crate::member;
use crate::node::lookup;
use crate::node::lookup::{Code, find_member};
use crate::node::{Node, Slot};
use crate::store::call;

/// The interface of `init`.
const LIFECYCLE: &str = "lattice:store/lifecycle";
/// The number of rows that are read at once.
const BATCH: usize = 128;

/// The lane that a request names; `None` for both lanes.
pub(crate) fn lane_filter(number: i32) -> Option<Lane> {
    match api::Lane::try_from(number) {
        Ok(api::Lane::System) => Some(Lane::System),
        Ok(api::Lane::App) => Some(Lane::App),
        _ => None,
    }
}

/// A lane as a message of the API.
pub(crate) fn lane(lane: Lane) -> api::Lane {
    match lane {
        Lane::System => api::Lane::System,
        Lane::App => api::Lane::App,
    }
}

/// Whether `filter` means the function of a call: it is `name`, or `interface.name` with the end of the interface.
fn names_function(filter: &str, call: &Call) -> bool {
    match filter.rsplit_once('.') {
        None => filter == call.function,
        Some((interface, function)) => {
            function == call.function
                && call
                    .interface
                    .strip_suffix(interface)
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with(['/', ':']))
        }
    }
}

/// The names of members by device.
pub(crate) struct Names(Option<Arc<Governance>>);

impl Names {
    /// The names that governance has now; none while governance cannot be asked.
    pub(crate) fn of(governance: Option<Arc<Governance>>) -> Self {
        Self(governance)
    }

    /// The name of the member with this device; empty when there is none.
    pub(crate) fn get(&self, device: &DeviceKey) -> String {
        let member = self.0.as_ref().and_then(|members| members.member(device));
        member.map_or_else(String::new, |member| member.name.clone())
    }
}

/// The entries and transactions that a request asks for; all of them by default.
#[derive(Default)]
pub(crate) struct Filter {
    authors: Option<DeviceKey>,
    since_ms: u64,
    until_ms: u64,
    function: String,
    outcome: api::OutcomeKind,
    lane: Option<Lane>,
}

impl Filter {
    /// The filter for transactions with a call of that function.
    #[cfg(test)]
    pub(crate) fn of_function(name: &str) -> Self {
        Self {
            function: name.into(),
            ..Self::default()
        }
    }

    fn wants_entry(&self, row: &HistoryRow) -> bool {
        let header = &row.stored.header;
        let time_ms = header.time.wall_ms;
        let genesis = header.is_genesis();
        self.authors.is_none_or(|author| author == header.author)
            && time_ms >= self.since_ms
            && (self.until_ms == 0 || time_ms < self.until_ms)
            && (genesis || self.lane.is_none_or(|lane| lane == header.lane))
    }

    fn wants_transaction(&self, transaction: &api::HistoryTransaction, calls: &[Call]) -> bool {
        let outcome = transaction
            .outcome
            .as_ref()
            .map_or(0, |outcome| outcome.kind);
        (self.function.is_empty()
            || calls
                .iter()
                .any(|call| names_function(&self.function, call)))
            && (self.outcome == api::OutcomeKind::Unspecified || outcome == i32::from(self.outcome))
    }

    /// Whether this row and all rows after it are outside of the time that is asked for.
    fn is_past(&self, row: &HistoryRow, oldest_first: bool) -> bool {
        let time_ms = row.position.time.wall_ms;
        match oldest_first {
            true => self.until_ms != 0 && time_ms >= self.until_ms,
            false => time_ms < self.since_ms,
        }
    }

    /// The position after which the first wanted row can come; `None` for the beginning.
    fn start(&self, oldest_first: bool) -> Option<Position> {
        match oldest_first {
            true => self.since_ms.checked_sub(1).map(|wall_ms| Position {
                time: Time {
                    wall_ms,
                    counter: u32::MAX,
                },
                id: IntentionId([0xff; 32]),
            }),
            false => (self.until_ms != 0).then_some(Position {
                time: Time {
                    wall_ms: self.until_ms,
                    counter: 0,
                },
                id: IntentionId([0; 32]),
            }),
        }
    }
}

/// Turns rows of the history into messages, with the types of the code in effect and the names of members.
pub(crate) struct Reader {
    code: Option<Code>,
    names: Names,
    forms: Forms,
}

impl Reader {
    /// A reader. Without `code` arguments are left out, and values are shown as CBOR.
    pub(crate) fn new(code: Option<Code>, names: Names, forms: Forms) -> Self {
        Self { code, names, forms }
    }

    fn function(&self, lane: Lane, call: &Call) -> Option<&Function> {
        self.code
            .as_ref()?
            .lane(lane)?
            .function(&call.interface, &call.function)
    }

    fn arguments(&self, function: Option<&Function>, call: &Call) -> Vec<api::NamedValue> {
        let Some(function) = function else {
            return Vec::new();
        };
        let Ok(values) = cbor::decode_all(function.param_types(), &call.args) else {
            return Vec::new();
        };
        let params = function.params.iter().zip(values);
        params
            .map(|(param, value)| api::NamedValue {
                name: param.name.clone(),
                value: Some(
                    self.forms
                        .show(Some(&param.ty), &cbor::encode(&param.ty, &value)),
                ),
            })
            .collect()
    }

    fn transaction(
        &self,
        row: &HistoryRow,
        index: usize,
        first_call: u32,
        transaction: &Transaction,
    ) -> api::HistoryTransaction {
        let header = &row.stored.header;
        let functions: Vec<_> = transaction
            .calls
            .iter()
            .map(|call| self.function(header.lane, call))
            .collect();
        let calls = transaction.calls.iter().zip(&functions).zip(first_call..);
        api::HistoryTransaction {
            index: index as u32,
            calls: calls
                .map(|((call, function), number)| api::HistoryCall {
                    id: header.call_id(number).0.to_vec(),
                    interface: call.interface.clone(),
                    function: call.function.clone(),
                    arguments: self.arguments(*function, call),
                    arguments_cbor: call.args.clone(),
                })
                .collect(),
            outcome: Some(self.outcome(row, index, &functions)),
            provisional: !row.void,
        }
    }

    fn outcome(
        &self,
        row: &HistoryRow,
        index: usize,
        functions: &[Option<&Function>],
    ) -> api::Outcome {
        match row.outcomes.get(index) {
            _ if row.void => outcome::without(api::OutcomeKind::Void),
            Some(shown) if !row.pending => outcome::show(shown, functions, self.forms),
            _ => outcome::without(api::OutcomeKind::Pending),
        }
    }

    /// The transactions of the genesis: a call of `init` for each lane.
    fn genesis(&self, row: &HistoryRow, genesis: &Genesis) -> Vec<api::HistoryTransaction> {
        let lanes = [
            Some(&genesis.system_params),
            genesis.app.as_ref().map(|_| &genesis.app_params),
        ];
        let calls = lanes.into_iter().flatten().enumerate();
        calls
            .map(|(index, params)| api::HistoryTransaction {
                index: index as u32,
                calls: vec![api::HistoryCall {
                    id: row.stored.header.call_id(index as u32).0.to_vec(),
                    interface: LIFECYCLE.into(),
                    function: "init".into(),
                    arguments: params.iter().map(|param| self.parameter(param)).collect(),
                    arguments_cbor: Vec::new(),
                }],
                // A successful `init` has no value to show.
                outcome: Some(match row.outcomes.get(index) {
                    Some(Outcome::Ok(_)) if !row.pending => outcome::without(api::OutcomeKind::Ok),
                    _ => self.outcome(row, index, &[]),
                }),
                provisional: false,
            })
            .collect()
    }

    fn parameter(&self, param: &Param) -> api::NamedValue {
        let value = cbor::encode(&Type::String, &Value::String(param.value.clone()));
        api::NamedValue {
            name: param.name.clone(),
            value: Some(self.forms.show(Some(&Type::String), &value)),
        }
    }

    /// The message of a row with all of its transactions, and the calls of each transaction.
    fn entry(&self, row: &HistoryRow) -> (api::HistoryEntry, Vec<Vec<Call>>) {
        let header = &row.stored.header;
        let body = row
            .stored
            .body
            .as_deref()
            .and_then(|bytes| Body::decode(bytes).ok());
        let mut calls = Vec::new();
        let transactions = match &body {
            Some(Body {
                genesis: Some(genesis),
                ..
            }) => {
                let init = Call {
                    interface: LIFECYCLE.into(),
                    function: "init".into(),
                    args: Vec::new(),
                };
                calls = vec![vec![init]; 2];
                self.genesis(row, genesis)
            }
            Some(body) => {
                let mut first_call = 0;
                let mut shown = Vec::with_capacity(body.transactions.len());
                for (index, transaction) in body.transactions.iter().enumerate() {
                    shown.push(self.transaction(row, index, first_call, transaction));
                    first_call += transaction.calls.len() as u32;
                    calls.push(transaction.calls.clone());
                }
                shown
            }
            // The body is missing or does not decode, so only the outcome can be shown.
            None => {
                calls.push(Vec::new());
                vec![api::HistoryTransaction {
                    index: 0,
                    calls: Vec::new(),
                    outcome: Some(self.outcome(row, 0, &[])),
                    provisional: !row.void,
                }]
            }
        };
        let entry = api::HistoryEntry {
            id: header.id().0.to_vec(),
            lane: lane(header.lane).into(),
            author: header.author.0.to_vec(),
            member: self.names.get(&header.author),
            time: Some(outcome::time(header.time)),
            received_ms: row.stored.received_ms,
            chain: header.chain.0,
            seq: header.seq.0,
            genesis: header.is_genesis(),
            transactions,
            shortened: false,
            gathers: header.body.len == 0,
        };
        (entry, calls)
    }

    /// The calls of an entry in one line of at most `chars_max` characters.
    pub(crate) fn summary(&self, row: &HistoryRow, chars_max: usize) -> String {
        let (entry, _) = self.entry(row);
        let mut out = String::new();
        for transaction in &entry.transactions {
            for call in &transaction.calls {
                if !out.is_empty() {
                    out.push_str("; ");
                }
                out.push_str(&call.function);
                for argument in &call.arguments {
                    out.push(' ');
                    out.push_str(argument.value.as_ref().map_or("", |value| &value.text));
                }
                if out.chars().count() > chars_max {
                    let mut cut: String = out.chars().take(chars_max - 1).collect();
                    cut.push('…');
                    return cut;
                }
            }
        }
        out
    }
}

/// Shortens an entry until it fits a page: first the readable arguments go, then the bytes of arguments and the values
/// of outcomes, and last whole transactions.
fn shorten(entry: &mut api::HistoryEntry) {
    type Step = fn(&mut api::HistoryTransaction);
    let steps: [Step; 2] = [
        |transaction| {
            for call in &mut transaction.calls {
                call.arguments.clear();
            }
        },
        |transaction| {
            for call in &mut transaction.calls {
                call.arguments_cbor.clear();
            }
            if let Some(outcome) = &mut transaction.outcome {
                outcome::leave_out_values(outcome);
            }
        },
    ];
    for step in steps {
        if item_bytes(entry) <= PAGE_BYTES_MAX {
            return;
        }
        entry.shortened = true;
        entry.transactions.iter_mut().for_each(step);
    }
    let mut bytes = item_bytes(entry);
    while bytes > PAGE_BYTES_MAX
        && let Some(last) = entry.transactions.pop()
    {
        // Two bytes are the tag and the shortest length, so this is at most what the transaction took.
        bytes -= last.encoded_len() + 2;
    }
}

pub(crate) fn page_of(
    snapshot: &Snapshot,
    page: &Page,
    filter: &Filter,
    oldest_first: bool,
    reader: &Reader,
) -> Result<api::HistoryResponse> {
    let mut at = match page.after() {
        Some(key) => Some(
            Position::from_slice(key).ok_or_else(|| Failure::usage("the page token is damaged"))?,
        ),
        None => filter.start(oldest_first),
    };
    let mut response = api::HistoryResponse::default();
    let (mut seen, mut bytes) = (0, 0);
    loop {
        let rows = snapshot.history(at, BATCH, !oldest_first)?;
        let last_batch = rows.len() < BATCH;
        for row in rows {
            if filter.is_past(&row, oldest_first) {
                return Ok(response);
            }
            seen += 1;
            if filter.wants_entry(&row) {
                let (mut entry, calls) = reader.entry(&row);
                let all = std::mem::take(&mut entry.transactions);
                entry.transactions = all
                    .into_iter()
                    .zip(&calls)
                    .filter(|(transaction, calls)| filter.wants_transaction(transaction, calls))
                    .map(|(transaction, _)| transaction)
                    .collect();
                if !entry.transactions.is_empty() {
                    shorten(&mut entry);
                    bytes += item_bytes(&entry);
                    if let Some(before) = at.filter(|_| bytes > PAGE_BYTES_MAX) {
                        response.next_page_token = page.token(&before.to_bytes());
                        return Ok(response);
                    }
                    response.entries.push(entry);
                }
            }
            at = Some(row.position);
            let full = response.entries.len() >= page.size() || seen >= HISTORY_ROWS_MAX;
            if full {
                // Whether more rows follow is not known. If none does, the next page is empty.
                response.next_page_token = page.token(&row.position.to_bytes());
                return Ok(response);
            }
        }
        if last_batch {
            return Ok(response);
        }
    }
}

/// The reader for the rows of a store, with the code in effect and the members of now.
pub(crate) fn reader(node: &Node, slot: &Slot, snapshot: &Snapshot, forms: Forms) -> Reader {
    let names = Names::of(slot.governance());
    Reader::new(call::code(node, slot, snapshot).ok(), names, forms)
}

/// A page of the entries of a store in canonical order, with calls and outcomes.
pub(crate) async fn history(
    node: &Arc<Node>,
    request: api::HistoryRequest,
) -> Result<api::HistoryResponse> {
    let slot = lookup::find_slot(node, &request.store)?;
    let snapshot = node.store(&slot).await?.snapshot();
    let authors = match request.by.as_str() {
        "" => None,
        text => {
            let governance = member::governance(node, &slot).await?;
            Some(find_member(&governance, text)?)
        }
    };
    let filter = Filter {
        authors,
        since_ms: request.since_ms,
        until_ms: request.until_ms,
        outcome: request.outcome(),
        lane: lane_filter(request.lane),
        function: request.function,
    };
    let filters: [&[u8]; 7] = [
        &slot.id.0,
        &[u8::from(request.oldest_first)],
        request.by.as_bytes(),
        filter.function.as_bytes(),
        &filter.since_ms.to_be_bytes(),
        &filter.until_ms.to_be_bytes(),
        &[filter.outcome as u8, request.lane as u8],
    ];
    let page = Page::new(request.page_size, &request.page_token, &filters)?;
    let reader = reader(node, &slot, &snapshot, Forms::from_request(&request.forms));
    let oldest_first = request.oldest_first;
    tokio::task::spawn_blocking(move || page_of(&snapshot, &page, &filter, oldest_first, &reader))
        .await
        .map_err(|error| Failure::failed(error.to_string()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_meant_by_its_name_or_the_end_of_its_interface() {
        let call = Call {
            interface: "lattice:kv/commands".into(),
            function: "put".into(),
            args: Vec::new(),
        };
        for same in [
            "put",
            "commands.put",
            "kv/commands.put",
            "lattice:kv/commands.put",
        ] {
            assert!(names_function(same, &call), "{same}");
        }
        for other in ["pu", "mands.put", "queries.put", "put.put", ""] {
            assert!(!names_function(other, &call), "{other}");
        }
    }

    /// An entry with so many transactions. Each has one call, with `argument` bytes of text and `cbor` bytes of
    /// arguments, and an outcome with a value of `value_len` bytes.
    fn entry(
        transactions: usize,
        argument: usize,
        cbor: usize,
        value_len: usize,
    ) -> api::HistoryEntry {
        let value = |len: usize| api::Value {
            text: "x".repeat(len),
            ..Default::default()
        };
        let transaction = api::HistoryTransaction {
            calls: vec![api::HistoryCall {
                function: "put".into(),
                arguments: vec![api::NamedValue {
                    name: "value".into(),
                    value: Some(value(argument)),
                }],
                arguments_cbor: vec![7; cbor],
                ..Default::default()
            }],
            outcome: Some(api::Outcome {
                results: vec![api::CallResult {
                    value: Some(value(value_len)),
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        api::HistoryEntry {
            transactions: vec![transaction; transactions],
            ..Default::default()
        }
    }

    #[test]
    fn an_entry_is_shortened_by_no_more_than_it_must() {
        const BIG: usize = 1 << 20;
        let head = item_bytes(&entry(1, BIG, BIG, BIG)) - 3 * BIG;
        let left = PAGE_BYTES_MAX - head - 2 * BIG;
        let mut fits = entry(1, left, BIG, BIG);
        let before = fits.clone();
        assert_eq!(item_bytes(&fits), PAGE_BYTES_MAX);
        shorten(&mut fits);
        assert_eq!(fits, before);
        let mut more = entry(1, left + 1, BIG, BIG);
        shorten(&mut more);
        let call = &more.transactions[0].calls[0];
        assert!(more.shortened && call.arguments.is_empty() && call.arguments_cbor.len() == BIG);
        assert_eq!(more.transactions[0].outcome, before.transactions[0].outcome);
        let mut more = entry(1, 0, BIG, left + 2 * BIG);
        shorten(&mut more);
        let transaction = &more.transactions[0];
        assert!(transaction.calls[0].arguments_cbor.is_empty());
        assert!(
            transaction
                .outcome
                .as_ref()
                .is_some_and(|o| o.results.is_empty())
        );
        // Very many transactions are too large even without arguments and values, so some of them are left out.
        let mut many = entry(PAGE_BYTES_MAX / 8, 0, 0, 0);
        shorten(&mut many);
        assert!((1..PAGE_BYTES_MAX / 8).contains(&many.transactions.len()));
        assert!(item_bytes(&many) <= PAGE_BYTES_MAX);
    }
}
