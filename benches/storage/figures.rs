//! The table of figures, with the targets and whether they are met.

use std::fmt;
use std::time::Duration;

/// What was measured, row by row.
#[derive(Default)]
pub struct Table(Vec<Row>);

struct Row {
    name: String,
    figure: f64,
    unit: &'static str,
    target: Option<f64>,
    remark: String,
}

impl Table {
    /// A figure that is only told.
    pub fn tell(&mut self, name: impl Into<String>, figure: f64, unit: &'static str, remark: String) {
        self.push(Row { name: name.into(), figure, unit, target: None, remark });
    }

    /// A figure that should be at most `target`.
    pub fn compare(
        &mut self,
        name: impl Into<String>,
        figure: f64,
        unit: &'static str,
        target: f64,
        remark: String,
    ) {
        self.push(Row { name: name.into(), figure, unit, target: Some(target), remark });
    }

    /// Prints all rows.
    pub fn print(&self) {
        println!("\n{:<34} {:>10} {:>6} {:>10} {:>8}  remark", "figure", "measured", "", "at most", "");
        for row in &self.0 {
            println!("{row}");
        }
    }

    fn push(&mut self, row: Row) {
        // At once as well: what was measured is not lost where a later part cannot go on.
        println!("{row}");
        self.0.push(row);
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, figure, unit, target, remark } = self;
        let (limit, verdict) = match target {
            Some(target) if figure <= target => (format!("{target:.1}"), "met"),
            Some(target) => (format!("{target:.1}"), "NOT MET"),
            None => (String::new(), ""),
        };
        write!(f, "{name:<34} {figure:>10.2} {unit:>6} {limit:>10} {verdict:>8}  {remark}")
    }
}

/// The sample below which so many percent of all samples are.
pub fn percentile(samples: &mut [Duration], percent: usize) -> Duration {
    samples.sort_unstable();
    samples[(samples.len() - 1) * percent / 100]
}

/// Microseconds.
pub fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
