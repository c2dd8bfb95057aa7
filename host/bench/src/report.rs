//! The table of figures, and the same as one JSON document.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::{Value, json};

use crate::figure::{Figure, Target};

/// The figures as a table, with remarks below it.
pub(crate) fn table(figures: &[Figure]) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(["FIGURE", "OURS", "RAW LIMIT", "RATIO", "TARGET", ""]);
    for figure in figures {
        table.add_row([
            figure.name.clone(),
            figure.unit.show(figure.ours()),
            figure.unit.show(figure.raw()),
            format!("{:.2}", figure.ratio()),
            figure.target_text(),
            verdict(figure).to_owned(),
        ]);
    }
    for number in 1..=3 {
        if let Some(column) = table.column_mut(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = format!("{table}\n");
    for figure in figures {
        text.push_str(&format!("\n{}\n  beside: {}\n", figure.name, figure.raw_is));
        for note in &figure.notes {
            text.push_str(&format!("  {note}\n"));
        }
    }
    text
}

fn verdict(figure: &Figure) -> &'static str {
    match figure.is_met() {
        Some(true) => "pass",
        Some(false) => "FAIL",
        None if figure.target == Target::None => "",
        None => "busy",
    }
}

/// The figures as one JSON document.
pub(crate) fn document(figures: &[Figure]) -> Value {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    json!({
        "processor_count": cores,
        "met": figures.iter().all(|figure| figure.is_met() != Some(false)),
        "figures": figures.iter().map(Figure::to_json).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::{Sample, Unit};

    #[test]
    fn a_missed_target_shows_in_both_forms() {
        let figure = |name: &str, max| Figure {
            name: name.into(),
            unit: Unit::Time,
            raw_is: "a commit",
            target: Target::AtMost(max),
            runs: vec![Sample {
                ours: 0.5,
                raw: 0.1,
            }],
            notes: vec!["seen".into()],
        };
        let figures = [figure("one", 1.0), figure("two", 0.1)];
        let table = table(&figures);
        let line = |start: &str| {
            table
                .lines()
                .find(|line| line.trim_start().starts_with(start))
                .expect("a row")
        };
        assert!(line("one").trim_end().ends_with("pass"), "{table}");
        assert!(line("two").trim_end().ends_with("FAIL"), "{table}");
        assert!(table.contains("beside: a commit"), "{table}");
        let document = document(&figures);
        assert_eq!(document["met"], false);
        assert_eq!(document["figures"][0]["ratio"], 5.0);
    }
}
