//! Lookups by the names that people write: stores, functions, components, members.

use std::sync::Arc;

use lattice_format::{ComponentId, DeviceKey, Lane, StoreId};
use lattice_kernel::Snapshot;
use lattice_kernel::run::engine::{CallKind, HostFault, Member};
use lattice_kernel::sync::Governance;
use lattice_runtime::{Function, Interface, Schema};

use crate::api::failure::{Failure, Result};
use crate::limits::{NAME_CHARS_MAX, PATH_DEPTH_MAX};
use crate::node::records::PluginRecord;
use crate::node::{Node, Slot};

/// The fewest hexadecimal digits by which a person can name an id.
const DIGITS_MIN: usize = 8;

/// Whether a text can be a prefix of an id.
fn is_prefix(text: &str) -> bool {
    (DIGITS_MIN..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The first digits of an id, which name it in a command.
pub(crate) fn short(id: &[u8; 32]) -> String {
    hex::encode(&id[..8])
}

fn begins(id: &[u8; 32], prefix: &str) -> bool {
    hex::encode(id).starts_with(&prefix.to_ascii_lowercase())
}

/// Whether a text is a whole id.
fn is_whole_id(text: &str) -> bool {
    text.len() == 64 && is_prefix(text)
}

/// What a text means among things that have an id, and names by which `is_named` knows them. Peers choose names and
/// people abbreviate ids, so a whole id is never taken for a name, and a text that is the name of one thing and the
/// beginning of another's id means both.
fn meant<'a, T>(
    all: impl Iterator<Item = &'a T>,
    text: &str,
    id: impl Fn(&T) -> [u8; 32],
    is_named: impl Fn(&T) -> bool,
) -> Vec<&'a T> {
    let (by_id, is_whole) = (is_prefix(text), is_whole_id(text));
    all.filter(|one| (by_id && begins(&id(one), text)) || (!is_whole && is_named(one)))
        .collect()
}

/// Checks a new name of a store, a component or a member's device.
///
/// # Errors
/// When the name is empty, too long, has characters that are not allowed, or could be taken for something else.
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(allowed) {
        let shown: String = name.chars().take(NAME_CHARS_MAX + 1).collect();
        return Err(
            Failure::usage(format!("{shown:?} cannot be the name of a {what}")).hint(format!(
                "a name has 1 to {NAME_CHARS_MAX} letters, digits, `-`, `_` and `.`"
            )),
        );
    }
    if is_prefix(name) {
        return Err(Failure::usage(format!(
            "{name:?} cannot be the name of a {what}: it could be taken for an id"
        ))
        .hint("use another character than the digits 0 to 9 and a to f, or fewer than 8 of them"));
    }
    if name.starts_with('-') || matches!(name, "." | "..") {
        return Err(Failure::usage(format!(
            "{name:?} cannot be the name of a {what}: a command line could not name it"
        ))
        .hint("let it begin with a letter or a digit"));
    }
    Ok(())
}

/// The id, name and path by which a store is found.
pub(crate) struct StoreName {
    pub(crate) id: StoreId,
    pub(crate) name: String,
    pub(crate) path: String,
}

/// Finds a store among `all` by its name or path, or by a prefix of its id. A path means one store, whatever stores
/// below others have the same name.
fn find(all: &[StoreName], text: &str) -> Result<StoreId> {
    let id = |store: &StoreName| store.id.0;
    let mut found = meant(all.iter(), text, id, |store| store.path == text);
    if found.is_empty() || is_prefix(text) {
        found = meant(all.iter(), text, id, |store| {
            store.path == text || store.name == text
        });
    }
    match found[..] {
        [one] => return Ok(one.id),
        [] => {}
        ref several => {
            let mut several: Vec<String> = several
                .iter()
                .map(|store| format!("{} {}", store.path, &hex::encode(store.id.0)[..16]))
                .collect();
            several.sort();
            return Err(Failure::usage(format!("{text:?} means several stores"))
                .hint("write a path, or more digits of the id")
                .candidates(several));
        }
    }
    let hint = match all.is_empty() {
        true => "make one with `lattice store create`, or join one",
        false => "`lattice store list` shows what there is",
    };
    let mut known: Vec<String> = all.iter().map(|store| store.path.clone()).collect();
    known.sort();
    Err(Failure::not_found(format!("there is no store {text:?}"))
        .hint(hint)
        .candidates(known))
}

/// The path of a store: the names of its ancestors and its own, at most [`PATH_DEPTH_MAX`] of them, joined by `/`.
pub(crate) fn path(node: &Node, slot: &Slot) -> String {
    let mut names = vec![slot.name()];
    let mut parent = slot.parent();
    while let Some(above) = parent.and_then(|id| node.slot(&id)) {
        if names.len() >= PATH_DEPTH_MAX {
            break;
        }
        names.push(above.name());
        parent = above.parent();
    }
    names.reverse();
    names.join("/")
}

/// The store that a person named.
///
/// # Errors
/// When no store has that name, or several have it.
pub(crate) fn find_slot(node: &Node, text: &str) -> Result<Arc<Slot>> {
    let slots = node.slots();
    // A name that only one store has, and that is no beginning of an id, needs no paths.
    let mut exact = slots.iter().filter(|slot| slot.name() == text);
    if let (Some(one), None, false) = (exact.next(), exact.next(), is_prefix(text)) {
        return Ok(one.clone());
    }
    let all: Vec<StoreName> = slots
        .iter()
        .map(|slot| StoreName {
            id: slot.id,
            name: slot.name(),
            path: path(node, slot),
        })
        .collect();
    let id = find(&all, text)?;
    node.slot(&id)
        .ok_or_else(|| Failure::not_found(format!("there is no store {text:?} any more")))
}

/// Checks that no store below the same parent has this name.
///
/// # Errors
/// When one has it.
pub(crate) fn check_free(node: &Node, name: &str, parent: Option<StoreId>) -> Result<()> {
    let taken = |slot: &Arc<Slot>| slot.parent() == parent && slot.name() == name;
    match node.slots().iter().find(|slot| taken(slot)) {
        Some(slot) => Err(
            Failure::usage(format!("the store {} exists already", path(node, slot)))
                .hint("choose another name"),
        ),
        None => Ok(()),
    }
}

/// The installed component that a person named.
///
/// # Errors
/// When there is none, or several.
pub(crate) fn find_plugin(node: &Node, text: &str) -> Result<(String, PluginRecord)> {
    let all = node.records.plugins()?;
    let id = |(_, record): &(String, PluginRecord)| record.id().0;
    let mut found: Vec<(String, PluginRecord)> =
        meant(all.iter(), text, id, |(name, _)| name == text)
            .into_iter()
            .cloned()
            .collect();
    // A component with several names is found once, under the name that was written.
    found.sort_by_key(|(name, record)| (record.id().0, name != text));
    found.dedup_by_key(|(_, record)| record.id());
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(Failure::not_found(format!("there is no plugin {text:?}"))
            .hint("`lattice plugin list` shows what there is; `lattice plugin install` adds one")
            .candidates(all.into_iter().map(|(name, _)| name))),
        _ => Err(Failure::usage(format!("{text:?} means several plugins"))
            .hint("give more digits of its hash")
            .candidates(found.into_iter().map(|(name, _)| name))),
    }
}

/// A name under which a component is installed; `None` when it has none.
pub(crate) fn plugin_name(node: &Node, id: &ComponentId) -> Option<String> {
    let all = node.records.plugins().ok()?;
    all.into_iter()
        .find(|(_, record)| record.id() == *id)
        .map(|(name, _)| name)
}

/// A function of a store's component.
pub(crate) struct Found {
    /// The lane of the component.
    pub(crate) lane: Lane,
    /// The component.
    pub(crate) schema: Arc<Schema>,
    /// The function's interface, without version.
    pub(crate) interface: String,
    /// The function's name.
    pub(crate) name: String,
}

impl Found {
    /// The function's description.
    pub(crate) fn function(&self) -> &Function {
        self.schema
            .function(&self.interface, &self.name)
            .expect("it was found in this very schema")
    }
}

/// The code in effect of a store: the components of its two lanes.
pub(crate) struct Code {
    /// The app's component; `None` in a store without an app.
    pub(crate) app: Option<Arc<Schema>>,
    /// The governance component.
    pub(crate) system: Arc<Schema>,
}

impl Code {
    /// The code in effect in a snapshot; before the genesis has run, the code that it names.
    ///
    /// # Errors
    /// When this node lacks a component, so that the store is headless, or the disk fails.
    pub(crate) fn of(node: &Node, snapshot: &Snapshot) -> Result<Self> {
        let app = snapshot
            .code_in_effect()?
            .or_else(|| snapshot.genesis().app.as_ref().map(|app| app.id));
        Ok(Self {
            app: app.map(|id| node.components.schema(&id)).transpose()?,
            system: node.components.schema(&snapshot.genesis().system.id)?,
        })
    }

    /// The component of a lane.
    pub(crate) fn lane(&self, lane: Lane) -> Option<&Arc<Schema>> {
        match lane {
            Lane::App => self.app.as_ref(),
            Lane::System => Some(&self.system),
        }
    }

    /// The function that a person named: one of the app, else one of governance.
    ///
    /// # Errors
    /// When there is none, or several.
    pub(crate) fn find(&self, kind: CallKind, name: &str) -> Result<Found> {
        for lane in [Lane::App, Lane::System] {
            let Some(schema) = self.lane(lane) else {
                continue;
            };
            // In a store with an app, functions of governance need their interface: where an app has no `members`,
            // that name must not mean the one of governance.
            if lane == Lane::System && self.app.is_some() && !name.contains('.') {
                continue;
            }
            match schema.find(kind, name)[..] {
                [] => {}
                [(interface, function)] => {
                    return Ok(Found {
                        lane,
                        schema: schema.clone(),
                        interface: interface.id.clone(),
                        name: function.name.clone(),
                    });
                }
                ref several => {
                    return Err(Failure::usage(format!("{name:?} means several functions"))
                        .hint("write INTERFACE.FUNCTION")
                        .candidates(
                            several
                                .iter()
                                .map(|(interface, function)| qualified(interface, function)),
                        ));
                }
            }
        }
        Err(self.unknown(kind, name))
    }

    fn unknown(&self, kind: CallKind, name: &str) -> Failure {
        let (what, other, command) = match kind {
            CallKind::Query => ("query", CallKind::Command, "call"),
            _ => ("command", CallKind::Query, "query"),
        };
        let schema = self.app.as_ref().unwrap_or(&self.system);
        let names = schema
            .interfaces
            .iter()
            .filter(|interface| interface.kind == kind)
            .flat_map(|interface| interface.functions.iter().map(|f| f.name.clone()));
        let hint = match schema.find(other, name).is_empty() {
            false => format!("there is one of that name to {command}: use `lattice {command}`"),
            true if kind == CallKind::Query => "these are its queries".into(),
            true => "these are its commands".into(),
        };
        Failure::usage(format!("the store has no {what} {name:?}"))
            .hint(hint)
            .candidates(names)
    }
}

/// Why this node cannot run the code in effect of a store, such as a component that is not here; `None` when it can.
pub(crate) fn lacks(node: &Node, snapshot: &Snapshot) -> Option<HostFault> {
    let genesis = snapshot.genesis();
    let app = snapshot.code_in_effect().ok().flatten();
    let app = app.or_else(|| genesis.app.as_ref().map(|app| app.id));
    let mut ids = std::iter::once(genesis.system.id).chain(app);
    ids.find_map(|id| node.components.schema(&id).err())
}

fn qualified(interface: &Interface, function: &Function) -> String {
    format!("{}.{}", interface.id, function.name)
}

/// The member that a person named, by the member's name or by a prefix of its key.
///
/// # Errors
/// When there is none, or several.
pub(crate) fn find_member(governance: &Governance, text: &str) -> Result<DeviceKey> {
    let id = |member: &Member| member.device.0;
    let found = meant(governance.members(), text, id, |member| {
        member.name == text && !text.is_empty()
    });
    let shown = |member: &Member| match member.name.as_str() {
        "" => short(&member.device.0),
        name => format!("{name} {}", short(&member.device.0)),
    };
    match found[..] {
        [one] => Ok(one.device),
        [] => Err(Failure::not_found(format!("there is no member {text:?}"))
            .hint("give a member's name, or at least 8 digits of its id")
            .candidates(governance.members().map(shown))),
        ref several => Err(Failure::usage(format!("{text:?} means several members"))
            .hint("give more digits of the id")
            .candidates(several.iter().map(|member| shown(member)))),
    }
}

#[cfg(test)]
mod tests {
    use lattice_kernel::run::engine::{MemberStatus, Role};
    use lattice_testing::advice;
    use prost::Message as _;

    use super::*;

    fn store(byte: u8, name: &str, path: &str) -> StoreName {
        StoreName {
            id: StoreId([byte; 32]),
            name: name.into(),
            path: path.into(),
        }
    }

    #[test]
    fn stores_are_found_by_path_then_name_and_digits() {
        let all = [
            store(0xab, "notes", "notes"),
            store(0xac, "notes", "work/notes"),
            store(0xae, "tasks", "work/tasks"),
            store(0xaf, "tasks", "home/tasks"),
            store(0xad, "abababab", "abababab"),
        ];
        assert_eq!(find(&all, "notes").unwrap().0, [0xab; 32]);
        assert_eq!(find(&all, "work/notes").unwrap().0, [0xac; 32]);
        let is_ambiguous = |text: &str| {
            let error = find(&all, text).unwrap_err().to_string();
            assert!(error.contains("several stores"), "{error}");
        };
        is_ambiguous("tasks");
        // A store that is named by the digits of another one does not take its calls.
        is_ambiguous("abababab");
        assert_eq!(find(&all, "ABABABABA").unwrap().0, [0xab; 32]);
        let digits = [hex::encode([0xab; 32]), hex::encode([0xcd; 32])];
        let twin = [
            store(0xab, "notes", "notes"),
            store(0xad, &digits[0], &digits[0]),
        ];
        assert_eq!(
            find(&twin, &digits[0]).unwrap().0,
            [0xab; 32],
            "a whole id wins"
        );
        let liar = [store(0xad, &digits[1], &digits[1])];
        assert!(find(&liar, &digits[1]).is_err(), "a name is no id");
        for unknown in ["acacaca", "x", ""] {
            assert!(find(&all, unknown).is_err(), "{unknown}");
        }
    }

    #[test]
    fn an_ambiguous_prefix_names_every_candidate() {
        let id = |last: u8| {
            let mut id = [0xab; 32];
            id[31] = last;
            id
        };
        let all = [1, 2, 3].map(|last| StoreName {
            id: StoreId(id(last)),
            name: format!("notes-{last}"),
            path: format!("team/notes-{last}"),
        });
        let members = [1, 2, 3].map(|last| Member {
            device: DeviceKey(id(last)),
            name: format!("ann-{last}"),
            role: Role::Writer,
            rank: vec![last],
            status: MemberStatus::Active,
        });
        let members = Governance::of(members.into(), Vec::new());
        let whole = hex::encode(id(2));
        for digits in [DIGITS_MIN, 16, 63] {
            let stores = find(&all, &whole[..digits]).unwrap_err();
            let members = find_member(&members, &whole[..digits]).unwrap_err();
            for (failure, name) in [(stores, "team/notes"), (members, "ann")] {
                let status = tonic::Status::from(failure);
                let detail = crate::api::ErrorDetail::decode(status.details()).unwrap();
                assert_eq!(detail.exit_class(), crate::api::ExitClass::Usage);
                assert!(detail.text.contains("several"), "{detail:?}");
                assert!(detail.hint.contains("more digits of the id"), "{detail:?}");
                assert_eq!(detail.candidates.len(), 3);
                for (last, candidate) in (1..).zip(&detail.candidates) {
                    let named = candidate.starts_with(&format!("{name}-{last}"));
                    assert!(named, "{detail:?}");
                }
            }
        }
        let failure = find_member(&members, &whole[..DIGITS_MIN]).unwrap_err();
        advice(&failure.to_string(), "give more digits of the id");
        assert_eq!(find(&all, &whole).unwrap().0, id(2));
        assert_eq!(find_member(&members, &whole).unwrap().0, id(2));
        // Fewer digits than the fewest allowed name nothing.
        let short = find(&all, &whole[..DIGITS_MIN - 1]).unwrap_err();
        assert!(short.to_string().contains("no store"), "{short}");
        let short = find_member(&members, &whole[..DIGITS_MIN - 1]).unwrap_err();
        assert!(short.to_string().contains("no member"), "{short}");
    }

    #[test]
    fn a_function_of_two_interfaces_is_found_as_it_says() {
        let interface = |id: &str| Interface {
            id: id.into(),
            version: None,
            kind: CallKind::Command,
            docs: String::new(),
            functions: vec![Function {
                name: "add".into(),
                docs: String::new(),
                params: Vec::new(),
                result: None,
            }],
        };
        let schema = Arc::new(Schema {
            component: ComponentId([1; 32]),
            bytes: 1,
            interfaces: vec![interface("a:b/commands"), interface("a:c/commands")],
            imports: Vec::new(),
            ignored: Vec::new(),
            governs: false,
        });
        let code = Code {
            app: Some(schema.clone()),
            system: schema,
        };
        let failure = code.find(CallKind::Command, "add").err().unwrap();
        let said = failure.to_string();
        advice(&said, "write INTERFACE.FUNCTION");
        let status = tonic::Status::from(failure);
        let detail = crate::api::ErrorDetail::decode(status.details()).unwrap();
        assert_eq!(detail.candidates, ["a:b/commands.add", "a:c/commands.add"]);
        let found = code.find(CallKind::Command, "a:c/commands.add").unwrap();
        assert_eq!(found.interface, "a:c/commands");
    }

    #[tokio::test]
    async fn a_plugin_that_digits_do_not_tell_from_another_is_found_by_more_of_them() {
        let home = tempfile::tempdir().unwrap();
        let embedded = crate::embedded(home.path()).await.unwrap();
        let record = |last: u8| PluginRecord {
            component: [&[0xab; 31][..], &[last]].concat(),
            installed_ms: 1,
            bundled: false,
        };
        let both = [("one".to_owned(), record(1)), ("two".to_owned(), record(2))];
        let node = embedded.node();
        node.records.put_plugins(&both).unwrap();
        let hash = hex::encode(record(2).component);
        let failure = find_plugin(node, &hash[..63]).unwrap_err();
        advice(&failure.to_string(), "give more digits of its hash");
        assert_eq!(find_plugin(node, &hash).unwrap().0, "two");
        embedded.close().await;
    }

    #[test]
    fn names_are_checked() {
        let longest = "x".repeat(NAME_CHARS_MAX);
        for good in ["a", "notes-1_x.y", &longest, "deadbee", "deadbeef.", ".x"] {
            assert!(check_name("store", good).is_ok());
        }
        let longer = format!("{longest}x");
        for bad in [
            "",
            "a/b",
            "ä",
            "a b",
            &longer,
            ".",
            "..",
            "-x",
            "deadbeef",
            "0123456789AB",
        ] {
            assert!(check_name("store", bad).is_err());
        }
    }
}
