//! What the names of interfaces mean to the host.

use lattice_kernel::run::engine::CallKind;

/// The interface of `init` and `migrate`.
pub(crate) const LIFECYCLE: &str = "lattice:store/lifecycle";

/// The interface of the questions that the host asks of governance.
pub(crate) const GOVERNANCE: &str = "lattice:system/governance";

/// The name of an import or export without its version: `lattice:kv/commands`.
pub(crate) fn without_version(name: &str) -> &str {
    name.split_once('@').map_or(name, |(name, _)| name)
}

/// The last part of an interface's name: `commands`.
pub(crate) fn last(name: &str) -> &str {
    let name = without_version(name);
    name.rsplit_once('/').map_or(name, |(_, last)| last)
}

/// Which calls may reach the functions of an interface with this name, with or without a version.
pub(crate) fn kind(name: &str) -> Option<CallKind> {
    match last(name) {
        "commands" => Some(CallKind::Command),
        "queries" => Some(CallKind::Query),
        _ if without_version(name) == LIFECYCLE => Some(CallKind::Init),
        _ => None,
    }
}

/// Whether an import is one of WASI's.
pub(crate) fn is_wasi(name: &str) -> bool {
    name.starts_with("wasi:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_known_by_the_end_of_its_name() {
        assert_eq!(kind("lattice:kv/commands@0.1.0"), Some(CallKind::Command));
        assert_eq!(kind("queries"), Some(CallKind::Query));
        assert_eq!(kind("lattice:store/lifecycle@0.1.0"), Some(CallKind::Init));
        assert_eq!(kind("other:store/lifecycle"), None);
        assert_eq!(kind("a:b/subcommands"), None);
        assert_eq!(without_version("a:b/c@1.2.3"), "a:b/c");
    }
}
