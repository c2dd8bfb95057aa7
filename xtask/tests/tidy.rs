//! The tree keeps its own rules, as an ordinary test.

/// Holds: invariants 1, 11.
#[test]
fn tree_keeps_its_rules() {
    let violations = xtask::tidy::check(xtask::shell::root()).expect("the tree can be read");
    let report: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert!(
        report.is_empty(),
        "{} violations:\n{}",
        report.len(),
        report.join("\n")
    );
}
