//! What the network reads of persons and of its own files.

use lattice_net::{JoinTask, Token};

/// The text of an invitation.
pub(crate) fn token(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(token) = Token::parse(text) {
        let again = Token::parse(&token.to_text()).expect("what was written is read");
        assert_eq!(again.to_text(), token.to_text());
    }
}

/// A join that was written down.
pub(crate) fn join_task(input: &[u8]) {
    if let Ok(task) = JoinTask::from_bytes(input) {
        let bytes = task.to_bytes();
        let again = JoinTask::from_bytes(&bytes).expect("what was written is read");
        assert_eq!(again.to_bytes(), bytes);
    }
}
