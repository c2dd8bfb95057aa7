//! How many files this process may have open, and how many it has.
//!
//! An open store takes two, its state and the last segment of its log; connections, a compiler and the segments that
//! somebody reads take more for a while. Systems start processes with a soft limit of 1,024 for the sake of programs
//! that number files in bits, and let them raise it up to the hard one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::api::failure::{Failure, Result};
use crate::limits::{DESCRIPTORS_PER_STORE, DESCRIPTORS_SPARE};

/// Raises the limit as far as this process may. Who starts many nodes in one process has raised it before.
pub(crate) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_none() || limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
}

/// How many files may be open; `None` for any number.
pub(crate) fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// How many are; `None` where the system does not tell.
pub(crate) fn open() -> Option<u64> {
    let count = std::fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    // One of them was the directory.
    Some(count.saturating_sub(1))
}

/// Whether there is room for one more store, and then for what comes and goes.
///
/// # Errors
/// When too few descriptors are left.
pub(crate) fn check_room() -> Result<()> {
    let (Some(limit), Some(open)) = (limit(), open()) else {
        return Ok(());
    };
    room(limit, open)
}

fn room(limit: u64, open: u64) -> Result<()> {
    if open + DESCRIPTORS_PER_STORE + DESCRIPTORS_SPARE <= limit {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "{open} of {limit} files are open, and one more store needs {DESCRIPTORS_PER_STORE} beside the \
         {DESCRIPTORS_SPARE} that are kept for connections"
    ))
    .hint("allow more open files: see `ulimit -Hn`, or LimitNOFILE= of the service"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_refused_where_too_few_descriptors_would_be_left() {
        let needed = DESCRIPTORS_PER_STORE + DESCRIPTORS_SPARE;
        assert!(room(1024, 1024 - needed).is_ok());
        let refused = room(1024, 1024 - needed + 1).unwrap_err().to_string();
        assert!(refused.contains("of 1024 files are open"), "{refused}");
        assert!(refused.contains("ulimit"), "{refused}");
    }

    #[test]
    fn the_limit_is_raised_as_far_as_it_may_be() {
        raise();
        let limit = getrlimit(Resource::Nofile);
        assert!(limit.maximum.is_none() || limit.current == limit.maximum);
        raise();
        let before = open().expect("Linux tells");
        let file = std::fs::File::open("/dev/null").unwrap();
        // Other tests of this process open files as well.
        assert!(open().expect("Linux tells") > 0 && before > 0);
        drop(file);
    }
}
