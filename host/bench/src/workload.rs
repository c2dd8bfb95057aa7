//! What every figure writes: keys that scatter over the whole range, values that do not compress.

/// The key number `i`, as text: 16 hexadecimal digits. Every number gives another key.
pub(crate) fn key(i: u64) -> String {
    format!("{:016x}", i.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// The value number `i`, of `len` bytes: xorshift64 seeded by `i`.
pub(crate) fn value(i: u64, len: usize) -> Vec<u8> {
    // Zero is the one state that xorshift never leaves.
    let mut state = i.max(1);
    let mut bytes = Vec::with_capacity(len + 7);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Length of the values that figures write, in bytes.
pub(crate) const VALUE_BYTES: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_and_values_repeat() {
        let keys: std::collections::BTreeSet<_> = (0..10_000).map(key).collect();
        assert_eq!(keys.len(), 10_000);
        assert_eq!(value(7, 100), value(7, 100));
        assert_ne!(value(7, 100), value(8, 100));
        assert_eq!(value(7, 13).len(), 13);
        assert_eq!(value(7, 13), value(7, 100)[..13]);
    }
}
