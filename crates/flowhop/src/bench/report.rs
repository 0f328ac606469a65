//! Results of one kind of measurement.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::load::Load;
use super::plot::Plot;

/// What was measured of somebody under one condition, once in each round.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Condition: results with the same are compared with each other.
    pub(super) condition: String,
    /// The packets of this condition, where that is what it consists of.
    pub(super) load: Option<Load>,
    /// Who.
    pub(super) who: &'static str,
    /// Values.
    pub(super) values: Vec<f64>,
}

impl Row {
    /// A row about such packets.
    pub(super) fn under(load: Load, who: &'static str, values: Vec<f64>) -> Self {
        Self { condition: load.to_string(), load: Some(load), who, values }
    }

    /// The middle one; of an even number the lower of the two.
    pub(super) fn median(&self) -> f64 {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
    }

    pub(super) fn lowest(&self) -> f64 {
        self.values.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub(super) fn highest(&self) -> f64 {
        self.values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

/// One kind of measurement.
#[derive(Clone, Debug)]
pub(super) struct Section {
    /// Key in JSON.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) unit: &'static str,
    /// How it was measured.
    pub(super) method: &'static str,
    /// Digits after the point.
    pub(super) digits: usize,
    /// With whom the others are compared.
    pub(super) references: Vec<&'static str>,
    pub(super) rows: Vec<Row>,
    /// What went otherwise than planned, and whatever else one must know.
    pub(super) notes: Vec<String>,
}

impl Section {
    /// One of packets, for tests.
    #[cfg(test)]
    pub(super) fn of_packets(rows: Vec<Row>) -> Self {
        Self {
            name: "rate",
            title: "Packets",
            unit: "Mpacket/s",
            method: "so",
            digits: 1,
            references: Vec::new(),
            rows,
            notes: Vec::new(),
        }
    }

    /// Enters what one round has measured of somebody under a condition that is no load.
    pub(super) fn measured(&mut self, condition: &str, who: &'static str, value: f64) {
        match self.rows.iter_mut().find(|row| row.condition == condition && row.who == who) {
            Some(row) => row.values.push(value),
            None => self.rows.push(Row { condition: condition.to_owned(), load: None, who, values: vec![value] }),
        }
    }

    /// Notes something, once.
    pub(super) fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// By how much a row's median is that of another under the same condition.
    pub(super) fn ratio(&self, row: &Row, reference: &str) -> Option<f64> {
        let same = |other: &&Row| other.condition == row.condition && other.who == reference;
        let reference = self.rows.iter().find(same)?;
        Some(row.median() / reference.median()).filter(|ratio| ratio.is_finite())
    }

    /// Cells, the head first.
    fn cells(&self) -> Vec<Vec<String>> {
        let mut head = vec![String::new(), "who".to_owned(), format!("median, {}", self.unit), "range".to_owned()];
        head.extend(self.references.iter().map(|reference| format!("against {reference}")));
        let mut cells = vec![head];
        let digits = self.digits;
        for row in &self.rows {
            let mut line = vec![
                row.condition.clone(),
                row.who.to_owned(),
                format!("{:.digits$}", row.median()),
                format!("{:.digits$}-{:.digits$}", row.lowest(), row.highest()),
            ];
            for reference in &self.references {
                line.push(self.ratio(row, reference).map_or_else(String::new, |ratio| format!("{ratio:.2}")));
            }
            cells.push(line);
        }
        cells
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let cells = self.cells();
        let columns = cells.first().map_or(0, Vec::len);
        let width = |column: usize| cells.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = format!("{}\n", self.title);
        for line in &cells {
            for (place, (cell, width)) in line.iter().zip(&widths).enumerate() {
                // Words to the left, numbers to the right. Writing to a string does not fail.
                let _written = match place {
                    0 | 1 => write!(text, "  {cell:<width$}"),
                    _ => write!(text, "  {cell:>width$}"),
                };
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        for note in &self.notes {
            let _written = writeln!(text, "  * {note}");
        }
        text
    }

    /// For a page, with plots of it that are there.
    pub(super) fn markdown(&self, plots: &[Plot]) -> String {
        let mut text = format!("## {}\n\n{}\n\n", self.title, self.method);
        for plot in plots.iter().filter(|plot| plot.section == self.name) {
            let _written = writeln!(text, "![{}]({})\n", plot.title, plot.link);
        }
        for (place, line) in self.cells().iter().enumerate() {
            let _written = writeln!(text, "| {} |", line.join(" | "));
            if place == 0 {
                let _written = writeln!(text, "|---|---|{}", "---:|".repeat(line.len() - 2));
            }
        }
        if !self.notes.is_empty() {
            text.push('\n');
        }
        for note in &self.notes {
            let _written = writeln!(text, "* {note}");
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let ratios: serde_json::Map<String, Value> = self
                    .references
                    .iter()
                    .map(|reference| ((*reference).to_owned(), json!(self.ratio(row, reference))))
                    .collect();
                let load = row.load.map(Load::json);
                json!({
                    "condition": row.condition, "load": load, "who": row.who, "median": row.median(),
                    "values": row.values, "ratios": ratios,
                })
            })
            .collect();
        json!({ "name": self.name, "title": self.title, "unit": self.unit, "rows": rows, "notes": self.notes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios_are_within_one_condition() {
        let row = |condition: &str, who, values: &[f64]| Row {
            condition: condition.to_owned(),
            load: None,
            who,
            values: values.to_vec(),
        };
        let section = Section {
            name: "x",
            title: "X",
            unit: "Mpps",
            method: "so",
            digits: 1,
            references: vec!["a"],
            rows: vec![row("1", "a", &[2.0, 1.0, 4.0]), row("1", "b", &[1.0, 5.0, 0.5]), row("2", "b", &[1.0])],
            notes: vec!["n".to_owned()],
        };
        assert_eq!(section.ratio(&section.rows[1], "a"), Some(0.5));
        assert_eq!(section.ratio(&section.rows[2], "a"), None);
        assert!(section.text().contains("0.5-5.0"));
        assert!(section.markdown(&[]).contains("| 1 | b | 1.0 | 0.5-5.0 | 0.50 |"), "{}", section.markdown(&[]));
        assert_eq!(section.json()["rows"][2]["ratios"]["a"], Value::Null);
    }
}
