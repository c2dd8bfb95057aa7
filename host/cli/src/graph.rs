//! Drawings of directed graphs as text: a row for each node, with lines to its parents.
//!
//! Each open line has a column, and ends at a node that is drawn further down. A node takes the leftmost column of
//! the lines that end at it. The other lines join that column in the row above the node, and lines to all parents
//! but the first branch off in the row below it.

/// A node to draw. It is drawn before its parents.
pub(crate) struct Row<'a> {
    /// The node's id, by which other nodes name it as a parent.
    pub(crate) id: &'a [u8],
    /// The ids of the node's parents.
    pub(crate) parents: Vec<&'a [u8]>,
    /// The character that stands for the node.
    pub(crate) glyph: char,
    /// The text beside the node, without line ends.
    pub(crate) label: String,
}

/// Draws nodes, newest first. Lines to nodes that have no row stay open.
pub(crate) fn draw<'a>(rows: impl IntoIterator<Item = Row<'a>>) -> String {
    let mut columns: Vec<Option<&[u8]>> = Vec::new();
    let mut drawn = String::new();
    for row in rows {
        let waiting: Vec<usize> = (0..columns.len())
            .filter(|&column| columns[column] == Some(row.id))
            .collect();
        let own = waiting
            .first()
            .copied()
            .unwrap_or_else(|| free_column(&mut columns));
        let others = waiting.get(1..).unwrap_or_default();
        if !others.is_empty() {
            push_joint(&mut drawn, &columns, own, others, Joint::Converge);
            for &other in others {
                columns[other] = None;
            }
            drop_free_end(&mut columns);
        }
        // The node's column is occupied even if no line came from above.
        columns[own] = Some(row.id);
        push_node(&mut drawn, &columns, own, &row);
        columns[own] = row.parents.first().copied();
        let mut branches = Vec::new();
        let before = columns.clone();
        for &parent in row.parents.iter().skip(1) {
            let known = (0..columns.len()).find(|&c| c != own && columns[c] == Some(parent));
            let column = known.unwrap_or_else(|| {
                let free = free_column(&mut columns);
                columns[free] = Some(parent);
                free
            });
            branches.push(column);
        }
        if !branches.is_empty() {
            branches.sort_unstable();
            branches.dedup();
            push_joint(&mut drawn, &before, own, &branches, Joint::Branch);
        }
        drop_free_end(&mut columns);
    }
    drawn
}

fn drop_free_end(columns: &mut Vec<Option<&[u8]>>) {
    while columns.last() == Some(&None) {
        columns.pop();
    }
}

fn free_column(columns: &mut Vec<Option<&[u8]>>) -> usize {
    columns.iter().position(Option::is_none).unwrap_or_else(|| {
        columns.push(None);
        columns.len() - 1
    })
}

fn push_node(drawn: &mut String, columns: &[Option<&[u8]>], own: usize, row: &Row<'_>) {
    for (column, line) in columns.iter().enumerate() {
        drawn.push(match line {
            _ if column == own => row.glyph,
            Some(_) => '│',
            None => ' ',
        });
        drawn.push(' ');
    }
    drawn.push_str("  ");
    drawn.push_str(&row.label);
    drawn.push('\n');
}

/// How lines meet in the row above or below a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Joint {
    /// Lines from above end in the node's column.
    Converge,
    /// Lines begin in the node's column and go down.
    Branch,
}

/// Draws a row in which lines run between the node's column and others. `columns` are the lines that come from
/// above.
fn push_joint(
    drawn: &mut String,
    columns: &[Option<&[u8]>],
    own: usize,
    others: &[usize],
    joint: Joint,
) {
    let first = others.first().copied().unwrap_or(own).min(own);
    let last = others.last().copied().unwrap_or(own).max(own);
    let mut line = String::new();
    for column in 0..columns.len().max(last + 1) {
        let above = columns.get(column).is_some_and(Option::is_some);
        let (left, right) = (
            column > first && column <= last,
            column >= first && column < last,
        );
        line.push(if column == own {
            match (above, left, right) {
                (true, true, true) => '┼',
                (true, true, false) => '┤',
                (true, false, _) => '├',
                // No line comes from above in the node's own column.
                (false, true, true) => '┴',
                (false, true, false) => '╯',
                (false, false, _) => '╰',
            }
        } else if others.contains(&column) {
            match (joint, above, left, right) {
                (Joint::Converge, _, true, true) => '┴',
                (Joint::Converge, _, true, false) => '╯',
                (Joint::Converge, _, false, _) => '╰',
                (Joint::Branch, true, true, true) => '┼',
                (Joint::Branch, true, true, false) => '┤',
                (Joint::Branch, true, false, _) => '├',
                (Joint::Branch, false, true, true) => '┬',
                (Joint::Branch, false, true, false) => '╮',
                (Joint::Branch, false, false, _) => '╭',
            }
        } else if above {
            // A line to another node passes over the joint.
            '│'
        } else if left && right {
            '─'
        } else {
            ' '
        });
        line.push(if right { '─' } else { ' ' });
    }
    drawn.push_str(line.trim_end());
    drawn.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws nodes written as `name: parent parent`, newest first.
    fn check(nodes: &[&str], expected: &[&str]) {
        let rows = nodes.iter().map(|node| {
            let (name, parents) = node.split_once(':').expect("name: parents");
            Row {
                id: name.as_bytes(),
                parents: parents.split_whitespace().map(str::as_bytes).collect(),
                glyph: 'o',
                label: name.to_owned(),
            }
        });
        let drawn = draw(rows);
        let lines: Vec<&str> = drawn.lines().collect();
        assert_eq!(lines, expected, "\n{drawn}");
    }

    #[test]
    fn a_chain_is_a_line() {
        check(&["c: b", "b: a", "a:"], &["o   c", "o   b", "o   a"]);
    }

    #[test]
    fn two_heads_meet_where_they_parted() {
        check(
            &["c: a", "b: a", "a:"],
            &["o   c", "│ o   b", "├─╯", "o   a"],
        );
    }

    #[test]
    fn a_merge_opens_a_column() {
        check(
            &["d: c b", "c: a", "b: a", "a:"],
            &["o   d", "├─╮", "o │   c", "│ o   b", "├─╯", "o   a"],
        );
    }

    #[test]
    fn three_parents_branch_at_once() {
        check(
            &["e: b c d", "d: a", "c: a", "b: a", "a:"],
            &[
                "o   e",
                "├─┬─╮",
                "│ │ o   d",
                "│ o │   c",
                "o │ │   b",
                "├─┴─╯",
                "o   a",
            ],
        );
    }

    #[test]
    fn a_line_that_is_there_is_joined() {
        check(
            &["d: b", "c: a b", "b: a", "a:"],
            &["o   d", "│ o   c", "├─┤", "o │   b", "├─╯", "o   a"],
        );
    }
}
