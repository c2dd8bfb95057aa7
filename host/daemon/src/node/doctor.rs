//! The examination of a node, `lattice doctor`: checks of its parts, each with a hint about what to do.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use lattice_kernel::clock::{Span, Standing};
use lattice_kernel::run::engine::HostFault;
use lattice_runtime::golden;

use crate::Embedding;
use crate::api::{Check, CheckLevel, DoctorResponse, NoticeKind};
use crate::limits::{DESCRIPTORS_PER_STORE, DESCRIPTORS_SPARE, DISK_LOW_BYTES, STORES_OPEN};
use crate::node::copies;
use crate::node::descriptors;
use crate::node::home::check_socket_path;
use crate::node::lookup;
use crate::node::records::NoticeRecord;
use crate::node::status;
use crate::node::{Node, Slot};
use crate::plugin::bundled::BUNDLED;

fn check(name: &str, level: CheckLevel, text: impl Into<String>, hint: impl Into<String>) -> Check {
    Check {
        name: name.into(),
        level: level.into(),
        text: text.into(),
        hint: hint.into(),
    }
}

fn ok(name: &str, text: impl Into<String>) -> Check {
    check(name, CheckLevel::Ok, text, "")
}

fn free_space(free: u64) -> Check {
    let text = format!("{} MiB are free", free >> 20);
    match free < DISK_LOW_BYTES {
        false => ok("disk", text),
        true => check(
            "disk",
            CheckLevel::Warning,
            text,
            format!(
                "make room until {} MiB are free: stores stop on a full disk",
                DISK_LOW_BYTES >> 20
            ),
        ),
    }
}

/// Runs every check. Blocks.
pub(crate) fn doctor(node: &Node) -> DoctorResponse {
    let checks = vec![
        check_home(node),
        check_key(node),
        check_copies(node),
        check_disk(node),
        check_descriptors(node),
        check_clock(node),
        check_socket(node),
        check_network(node),
        check_runtime(node),
        check_stores(node),
    ];
    DoctorResponse { checks }
}

fn check_home(node: &Node) -> Check {
    let path = node.home.path().display();
    match node.home.mode() {
        Ok(mode) if mode & 0o077 == 0 => ok("home", format!("{path}, mode {mode:04o}")),
        Ok(mode) => check(
            "home",
            CheckLevel::Warning,
            format!("{path} can be entered by others: mode {mode:04o}"),
            format!("run `chmod 700 {path}`"),
        ),
        Err(error) => check("home", CheckLevel::Failed, format!("{path}: {error}"), ""),
    }
}

fn check_key(node: &Node) -> Check {
    match node.home.identity() {
        Ok(key) if key.verifying_key() == node.key.verifying_key() => {
            ok("key", format!("this node is {}", node.device()))
        }
        Ok(_) => check(
            "key",
            CheckLevel::Failed,
            "identity.key was replaced while the node runs",
            "put the key of this node back, or restart the daemon to become the device of the new one",
        ),
        Err(error) => check("key", CheckLevel::Failed, error.to_string(), ""),
    }
}

/// Repeats what was seen of other homes with this key, until a person has acknowledged it.
fn check_copies(node: &Node) -> Check {
    let notices = match node.records.notices() {
        Ok(notices) => notices,
        Err(failure) => return check("copies", CheckLevel::Failed, failure.to_string(), ""),
    };
    let seen = notices
        .iter()
        .map(|(_, notice)| notice)
        .rfind(|notice| notice.kind == i32::from(NoticeKind::Copy) && notice.acknowledged_ms == 0);
    match seen {
        None => ok("copies", "no sign of another home with this device's key"),
        Some(notice) => {
            let what = notice.text.split(';').next().unwrap_or_default();
            let hint = format!("{}; then run `lattice notices ack --all`", copies::REMEDY);
            check("copies", CheckLevel::Warning, what, hint)
        }
    }
}

fn check_disk(node: &Node) -> Check {
    match rustix::fs::statvfs(node.home.path()) {
        Ok(stat) if stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) => check(
            "disk",
            CheckLevel::Failed,
            "the disk can only be read: queries are answered, and calls are refused",
            "mount it for writing; the daemon goes on by itself",
        ),
        Ok(stat) => free_space(stat.f_bavail.saturating_mul(stat.f_frsize)),
        Err(error) => check("disk", CheckLevel::Failed, error.to_string(), ""),
    }
}

fn check_descriptors(node: &Node) -> Check {
    let stores = node.slots().len().min(STORES_OPEN) as u64;
    let needed = stores * DESCRIPTORS_PER_STORE + 2 * DESCRIPTORS_SPARE;
    let (Some(limit), Some(open)) = (descriptors::limit(), descriptors::open()) else {
        return ok("files", "as many may be open as are needed");
    };
    let text = format!("{open} of {limit} that may be open are; the stores need {needed}");
    match needed <= limit {
        true => ok("files", text),
        false => check(
            "files",
            CheckLevel::Warning,
            text,
            format!("allow {needed}: see `ulimit -n {needed}`, or LimitNOFILE= of the service"),
        ),
    }
}

fn check_clock(node: &Node) -> Check {
    // The beginning of 2026, before the first release. A clock below it is surely wrong.
    const EARLIEST_MS: u64 = 1_767_225_600_000;
    if node.clock.now_ms() < EARLIEST_MS {
        return check(
            "clock",
            CheckLevel::Failed,
            "the clock stands before 2026",
            "set it: entries with wrong times sort wrongly",
        );
    }
    let lead = match node.clock_lead_ms() {
        None => "nothing to compare with: no peer was met".to_owned(),
        Some(lead_ms @ 0..) => format!(
            "{} ahead of the peers' median",
            Span(lead_ms.unsigned_abs())
        ),
        Some(lead_ms) => format!("{} behind the peers' median", Span(lead_ms.unsigned_abs())),
    };
    let slots = node.slots();
    let mut denied = Vec::new();
    for slot in &slots {
        if let Some(error) = status::clock_error(node, slot) {
            denied.push(format!("{}: {error}", slot.name()));
        }
    }
    if !denied.is_empty() {
        let hint =
            "set the clock; if it is the peers' that are wrong, run the daemon with --trust-clock";
        return check("clock", CheckLevel::Failed, denied.join("; "), hint);
    }
    let leap = |slot: &Arc<Slot>| Some((slot.name(), status::clock_leap(node, slot)?));
    if let Some((name, error)) = slots.iter().find_map(leap) {
        let hint = "set the clock if it is ahead";
        return check(
            "clock",
            CheckLevel::Warning,
            format!("{name}: {error}"),
            hint,
        );
    }
    // What a wrong clock has left, until a person has acknowledged it.
    let is_left = |notice: &NoticeRecord| {
        notice.acknowledged_ms == 0 && notice.kind == i32::from(NoticeKind::Clock)
    };
    match node.records.notices() {
        Ok(notices) => {
            if let Some((_, notice)) = notices.into_iter().rev().find(|(_, n)| is_left(n)) {
                let hint = "`lattice notices` shows all, and `lattice notices ack --all` ends this";
                return check("clock", CheckLevel::Warning, notice.text, hint);
            }
        }
        Err(error) => return check("clock", CheckLevel::Failed, error.to_string(), ""),
    }
    let is_corrected = |slot: &Arc<Slot>| {
        let known = slot.known()?;
        let verdict = node.verdict(&slot.id, known.drift_ms, known.genesis_ms);
        let standing = verdict.standing;
        matches!(standing, Standing::Corrected { .. }).then_some(())
    };
    if node.clock.0.trusted {
        return ok("clock", format!("{lead}, and trusted"));
    }
    match slots.iter().find_map(is_corrected) {
        Some(()) => check(
            "clock",
            CheckLevel::Warning,
            format!("{lead}: theirs is used"),
            "set the clock",
        ),
        None => ok("clock", lead),
    }
}

fn check_socket(node: &Node) -> Check {
    let path = node.home.socket();
    if let Err(error) = check_socket_path(&path) {
        return check("socket", CheckLevel::Failed, error.to_string(), "");
    }
    if node.embedding == Embedding::Command {
        return ok(
            "socket",
            "no daemon runs; commands open the home themselves",
        );
    }
    match std::fs::symlink_metadata(&path) {
        Ok(found) if found.permissions().mode() & 0o077 == 0 => {
            ok("socket", path.display().to_string())
        }
        Ok(found) => check(
            "socket",
            CheckLevel::Failed,
            format!(
                "others can use it: mode {:04o}",
                found.permissions().mode() & 0o777
            ),
            format!("run `chmod 600 {}`", path.display()),
        ),
        Err(error) => check(
            "socket",
            CheckLevel::Failed,
            format!("{}: {error}", path.display()),
            "restart the daemon",
        ),
    }
}

fn check_network(node: &Node) -> Check {
    if node.net().is_none() {
        return ok("network", "none while no daemon runs");
    }
    let addresses = node.addresses();
    if addresses.is_empty() {
        return check(
            "network",
            CheckLevel::Warning,
            "no address is known that peers could dial",
            "check the network, or give --bind",
        );
    }
    let connected = status::peers(node)
        .iter()
        .filter(|peer| peer.connected)
        .count();
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    ok(
        "network",
        format!("{}; {connected} peers are connected", addresses.join(" ")),
    )
}

/// Compiles and loads the bundled components, and compares the golden outcomes of the profile with those of this
/// machine.
fn check_runtime(node: &Node) -> Check {
    for bundled in BUNDLED {
        if let Err(fault) = node.components.make_ready(&bundled.id()) {
            let (text, hint) = (format!("{}: {fault}", bundled.name), fault_hint(&fault));
            return check("runtime", CheckLevel::Failed, text, hint);
        }
    }
    let profile = lattice_runtime::profile::PROFILE;
    if let Err(wrong) = golden::check(node.components.wasm()) {
        return check(
            "runtime",
            CheckLevel::Failed,
            format!("profile {profile} is not kept: {}", wrong.join("; ")),
            "do not write to shared stores from this machine, and report it with the kind of its processor",
        );
    }
    ok(
        "runtime",
        format!(
            "profile {profile}; {} golden outcomes hold; {} bundled components run",
            golden::COUNT,
            BUNDLED.len()
        ),
    )
}

/// What to do about a bundled component that cannot be made ready.
fn fault_hint(fault: &HostFault) -> &'static str {
    match fault {
        HostFault::Exhausted(_) => {
            "allow this process what it lacks: see `ulimit -v`, `ulimit -t` and `ulimit -f`"
        }
        HostFault::Components(_) | HostFault::Storage(_) => {
            "check free space, permissions and the disk"
        }
        HostFault::MissingCode(_) | HostFault::Profile(_) | HostFault::Unusable { .. } => {
            "install this version of Lattice anew, and report it if that does not help"
        }
    }
}

fn check_stores(node: &Node) -> Check {
    let slots = node.slots();
    let mut bad = Vec::new();
    for slot in &slots {
        if let Err(failure) = node.open_slot(slot) {
            bad.push((lookup::path(node, slot), failure.text().to_owned()));
            continue;
        }
        let (state, reason) = status::state(node, slot);
        if state != crate::api::StoreState::Ready {
            bad.push((lookup::path(node, slot), reason));
        }
    }
    // What happened to stores, until a person has acknowledged it.
    let notices = node.records.notices().unwrap_or_default();
    let told = notices
        .into_iter()
        .map(|(_, notice)| notice)
        .rfind(|notice| notice.acknowledged_ms == 0 && notice.kind == i32::from(NoticeKind::Other));
    if let (true, Some(notice)) = (bad.is_empty(), told) {
        let hint = "`lattice notices` shows all, and `lattice notices ack --all` ends this";
        return check("stores", CheckLevel::Warning, notice.text, hint);
    }
    match bad.is_empty() {
        true => ok("stores", format!("{} stores are ready", slots.len())),
        false => check(
            "stores",
            CheckLevel::Warning,
            bad.iter()
                .map(|(name, reason)| format!("{name}: {reason}"))
                .collect::<Vec<_>>()
                .join("; "),
            format!("`lattice store status {}` says more", bad[0].0),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_with_little_space_is_reported() {
        let level = |free| free_space(free).level();
        assert_eq!(level(DISK_LOW_BYTES), CheckLevel::Ok);
        assert_eq!(level(DISK_LOW_BYTES - 1), CheckLevel::Warning);
    }
}
