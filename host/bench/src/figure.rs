//! A figure: what was measured, the machine's own limit beside it, and whether the target is met.

use std::time::Duration;

use serde_json::{Value, json};

/// The unit of a figure's numbers: seconds, bytes, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Time,
    Bytes,
    /// A ratio of two numbers.
    Times,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Unit::Time => "s",
            Unit::Bytes => "bytes",
            Unit::Times => "times",
        }
    }

    /// A number of this unit as text.
    pub(crate) fn show(self, number: f64) -> String {
        match self {
            Unit::Bytes => format!("{:.1} MB", number / f64::from(1 << 20)),
            Unit::Times => format!("{number:.1} x"),
            Unit::Time if number < 1e-3 => format!("{:.1} us", number * 1e6),
            Unit::Time if number < 1.0 => format!("{:.2} ms", number * 1e3),
            Unit::Time => format!("{number:.2} s"),
        }
    }
}

/// What a figure has to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Target {
    /// At most so many times the raw limit.
    RatioAtMost(f64),
    /// At most so many times the raw limit, which is the same work without a disturbance. A figure may well be
    /// below it.
    SlowdownAtMost(f64),
    AtMost(f64),
    AtLeast(f64),
    /// No target; the figure is shown for comparison.
    None,
}

/// One run of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    /// The value of this system.
    pub(crate) ours: f64,
    /// The raw limit, measured in the same run.
    pub(crate) raw: f64,
}

/// A figure with its runs.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// What was measured.
    pub(crate) name: String,
    pub(crate) unit: Unit,
    /// The work of the raw limit, in words.
    pub(crate) raw_is: &'static str,
    /// The value that the figure has to reach.
    pub(crate) target: Target,
    /// The runs; not empty.
    pub(crate) runs: Vec<Sample>,
    /// Remarks below the table, a line each.
    pub(crate) notes: Vec<String>,
}

impl Figure {
    /// The median of this system's values over the runs.
    pub(crate) fn ours(&self) -> f64 {
        median(self.runs.iter().map(|run| run.ours))
    }

    /// The raw limit: the median over the runs.
    pub(crate) fn raw(&self) -> f64 {
        median(self.runs.iter().map(|run| run.raw))
    }

    /// The value of this system divided by the raw limit: the median of the runs' own ratios, so that what slows a
    /// whole run down does not count.
    pub(crate) fn ratio(&self) -> f64 {
        median(self.runs.iter().map(|run| run.ours / run.raw))
    }

    /// Whether the target is met. `None` without a target, and if the machine was too busy to tell: a figure cannot
    /// be below a raw limit that is a part of the same work.
    pub(crate) fn is_met(&self) -> Option<bool> {
        match self.target {
            Target::RatioAtMost(_) if self.ratio() < 1.0 => None,
            Target::RatioAtMost(max) | Target::SlowdownAtMost(max) => Some(self.ratio() <= max),
            Target::AtMost(max) => Some(self.ours() <= max),
            Target::AtLeast(min) => Some(self.ours() >= min),
            Target::None => None,
        }
    }

    /// The target as text.
    pub(crate) fn target_text(&self) -> String {
        match self.target {
            Target::RatioAtMost(max) | Target::SlowdownAtMost(max) => format!("ratio <= {max}"),
            Target::AtMost(max) => format!("<= {}", self.unit.show(max)),
            Target::AtLeast(min) => format!(">= {}", self.unit.show(min)),
            Target::None => String::new(),
        }
    }

    /// The figure as JSON: numbers in the base unit, with every run.
    pub(crate) fn to_json(&self) -> Value {
        let target = match self.target {
            Target::RatioAtMost(max) => json!({"ratio_at_most": max}),
            Target::SlowdownAtMost(max) => json!({"slowdown_at_most": max}),
            Target::AtMost(max) => json!({"at_most": max}),
            Target::AtLeast(min) => json!({"at_least": min}),
            Target::None => Value::Null,
        };
        let run = |run: &Sample| json!({"ours": run.ours, "raw": run.raw});
        json!({
            "figure": self.name,
            "unit": self.unit.name(),
            "ours": self.ours(),
            "raw": self.raw(),
            "raw_is": self.raw_is,
            "ratio": self.ratio(),
            "target": target,
            "met": self.is_met(),
            "runs": self.runs.iter().map(run).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}

/// The median of some numbers: of an even count, the mean of the middle two.
///
/// # Panics
/// When there are none.
pub(crate) fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.into_iter().collect();
    assert!(!numbers.is_empty(), "nothing was measured");
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    if numbers.len() % 2 == 1 {
        numbers[middle]
    } else {
        numbers[middle - 1].midpoint(numbers[middle])
    }
}

/// Durations of one operation, repeated.
#[derive(Clone, Debug, Default)]
pub(crate) struct Durations(Vec<Duration>);

impl Durations {
    pub(crate) fn push(&mut self, duration: Duration) {
        self.0.push(duration);
    }

    pub(crate) fn append(&mut self, mut other: Durations) {
        self.0.append(&mut other.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The duration, in seconds, that so many percent do not exceed (the nearest rank).
    ///
    /// # Panics
    /// When there are none.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        assert!(!self.0.is_empty(), "nothing was measured");
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted[rank - 1].as_secs_f64()
    }

    pub(crate) fn p50(&self) -> f64 {
        self.percentile(50)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(target: Target, runs: &[(f64, f64)]) -> Figure {
        Figure {
            name: "f".into(),
            unit: Unit::Time,
            raw_is: "r",
            target,
            runs: runs
                .iter()
                .map(|&(ours, raw)| Sample { ours, raw })
                .collect(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn a_slow_run_does_not_decide() {
        // The second run was slow as a whole, the third by chance in this system's value alone.
        let runs = [(2.0, 1.0), (20.0, 10.0), (9.0, 1.0)];
        let figure = figure(Target::RatioAtMost(2.0), &runs);
        assert_eq!(figure.ratio(), 2.0);
        assert_eq!(figure.is_met(), Some(true));
    }

    #[test]
    fn targets_are_judged_by_the_number_that_they_name() {
        let runs = [(2.0, 0.1)];
        assert_eq!(figure(Target::AtMost(2.0), &runs).is_met(), Some(true));
        assert_eq!(figure(Target::AtLeast(2.1), &runs).is_met(), Some(false));
        assert_eq!(
            figure(Target::RatioAtMost(2.0), &runs).is_met(),
            Some(false)
        );
        assert_eq!(figure(Target::None, &runs).is_met(), None);
        let busy = [(1.0, 4.0)];
        assert_eq!(figure(Target::RatioAtMost(2.0), &busy).is_met(), None);
        let slowdown = |runs| figure(Target::SlowdownAtMost(3.0), runs).is_met();
        assert_eq!(slowdown(&busy), Some(true));
        assert_eq!(slowdown(&[(3.1, 1.0)]), Some(false));
    }

    #[test]
    fn percentiles_take_the_nearest_rank() {
        let mut durations = Durations::default();
        for ms in (1..=100).rev() {
            durations.push(Duration::from_millis(ms));
        }
        assert_eq!(durations.p50(), 0.05);
        assert_eq!(durations.percentile(99), 0.099);
        assert_eq!(durations.percentile(100), 0.1);
        assert_eq!(median([3.0, 1.0, 2.0, 4.0]), 2.5);
    }

    #[test]
    fn numbers_are_shown_in_a_unit_that_fits_them() {
        assert_eq!(Unit::Time.show(93.4e-6), "93.4 us");
        assert_eq!(Unit::Time.show(0.0123), "12.30 ms");
        assert_eq!(Unit::Time.show(1.5), "1.50 s");
        assert_eq!(Unit::Bytes.show(64.0 * 1024.0 * 1024.0), "64.0 MB");
    }
}
