//! Panics of tasks and threads, told to whoever waits for them: a task that is gone answers nobody, and who waits for
//! it must not wait for ever.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use futures_util::FutureExt as _;

/// What a panic said.
pub(crate) fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a word")
}

/// Does something; a panic is an error that says so.
pub(crate) fn caught<T>(what: &str, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => done,
        Err(panic) => Err(format!("{what} panicked: {}; report it", said(&*panic))),
    }
}

/// Starts a task; `tell` is called with what its panic said.
pub(crate) fn spawn(
    task: impl Future<Output = ()> + Send + 'static,
    tell: impl FnOnce(&str) + Send + 'static,
) {
    tokio::spawn(async move {
        if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
            tell(said(&*panic));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_told_and_one_that_ends_is_not() {
        let (told, mut hears) = tokio::sync::mpsc::channel(1);
        let tell = told.clone();
        spawn(async {}, move |said| {
            let _ = tell.try_send(said.to_owned());
        });
        let number = 7;
        spawn(async move { panic!("at {number}") }, move |said| {
            let _ = told.try_send(said.to_owned());
        });
        assert_eq!(hears.recv().await.as_deref(), Some("at 7"));
        assert_eq!(hears.recv().await, None);
    }

    #[test]
    fn a_panic_is_an_error_that_says_what_panicked() {
        let error = caught::<()>("opening it", || panic!("unreachable")).unwrap_err();
        assert_eq!(error, "opening it panicked: unreachable; report it");
        assert_eq!(caught("opening it", || Ok(1)), Ok(1));
    }
}
