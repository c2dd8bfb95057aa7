//! The allocator of this process, and how soon it gives memory back to the system.
//!
//! A guest may write tens of megabytes in one transaction, on the thread of its store's writer. The allocator of
//! glibc keeps most of that memory for the thread's next call, which may never come.

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

    /// How long unused pages stay with the process, in milliseconds. A call that follows soon can use them again.
    pub(crate) const UNUSED_MS: isize = 1_000;

    /// Makes the allocator give unused memory back within about a second. A thread of the allocator does so,
    /// because a thread that sleeps cannot give back its own.
    ///
    /// # Errors
    /// When this build of the allocator does not know a setting.
    pub(crate) fn give_back() -> Result<(), Error> {
        // The default for arenas that are made later, and the arena of the first thread.
        b"arenas.dirty_decay_ms\0".name().write(UNUSED_MS)?;
        b"arena.0.dirty_decay_ms\0".name().write(UNUSED_MS)?;
        b"background_thread\0".name().write(true)
    }
}

/// Makes the allocator give unused memory back soon, for processes that live long. Does nothing on platforms
/// without jemalloc.
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
