//! The allocator of this process, and how soon it gives memory back to the system.
//!
//! A guest may write tens of megabytes in one transaction, on the thread of its store's writer. The allocator of
//! glibc keeps most of that for the thread's next call, which may never come.

#[cfg(all(
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod jemalloc {
    use tikv_jemalloc_ctl::{Access, AsName, Error};
    use tikv_jemallocator::Jemalloc;

    #[global_allocator]
    static ALLOCATOR: Jemalloc = Jemalloc;

    /// How long pages that nobody uses stay with the process: long enough for the next call to find them.
    pub(crate) const UNUSED_MS: isize = 1_000;

    /// Gives unused memory back within about a second, from a thread that does nothing else, so that the memory
    /// of threads that sleep comes back as well.
    ///
    /// # Errors
    /// When this build of the allocator does not know a setting.
    pub(crate) fn give_back() -> Result<(), Error> {
        // Arenas to come, and the one of the first thread.
        b"arenas.dirty_decay_ms\0".name().write(UNUSED_MS)?;
        b"arena.0.dirty_decay_ms\0".name().write(UNUSED_MS)?;
        b"background_thread\0".name().write(true)
    }
}

/// Makes the allocator give memory back soon: for processes that live long.
pub(crate) fn give_back() {
    #[cfg(all(
        target_os = "linux",
        target_env = "gnu",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    if let Err(error) = jemalloc::give_back() {
        tracing::warn!("memory comes back late: {error}");
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(
        target_os = "linux",
        target_env = "gnu",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    #[test]
    fn the_allocator_takes_each_setting() {
        use tikv_jemalloc_ctl::{Access, AsName};
        super::jemalloc::give_back().expect("it knows them");
        for name in ["arenas.dirty_decay_ms\0", "arena.0.dirty_decay_ms\0"] {
            let ms: isize = name.name().read().expect("a number");
            assert_eq!(ms, super::jemalloc::UNUSED_MS, "{name}");
        }
        let serves: bool = "background_thread\0".name().read().expect("a switch");
        assert!(serves);
    }
}
