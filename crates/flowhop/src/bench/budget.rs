//! What the design allows, and whether this run keeps to it.

use serde_json::{Value, json};

use super::contestants::{DRIVER, DRIVER_REDIRECT, NFTABLES, OPEN_VSWITCH, SKB};
use super::load::{Load, Shape};
use super::program::{self, HASH};
use super::report::{Row, Section};
use super::{memory, stream};
use crate::lab::Family;

/// Numbers of flows that there are budgets for.
const SIZES: [u32; 4] = [1 << 10, 1 << 16, 1 << 20, 1 << 22];

/// What a figure has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Limit {
    AtMost(f64),
    Below(f64),
    AtLeast(f64),
}

/// What is held against the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Figure {
    Itself,
    /// Its ratio to somebody else's under the same condition.
    Against(&'static str),
}

/// Something that the design promises.
#[derive(Clone, Debug)]
struct Budget {
    section: &'static str,
    who: &'static str,
    /// Under which condition; any if none, and then all of them have to.
    condition: Option<String>,
    figure: Figure,
    limit: Limit,
}

/// A budget and what was measured.
#[derive(Clone, Debug)]
struct Judged {
    what: String,
    limit: String,
    measured: String,
    value: f64,
    met: bool,
}

/// All that the design promises about figures that a run can have.
fn budgets() -> Vec<Budget> {
    let mut all = Vec::new();
    let mut push = |section, who, condition, figure, limit| {
        all.push(Budget { section, who, condition, figure, limit });
    };
    let under = |load: Load| Some(load.to_string());
    let of = |limits: &[f64]| SIZES.into_iter().zip(limits.to_vec()).collect::<Vec<_>>();
    // Nanoseconds of the program, without and with the check of TCP's windows.
    for (shape, limits) in [(Shape::Udp, [50.0, 145.0, 300.0, 405.0]), (Shape::Ack, [60.0, 200.0, 400.0, 620.0])] {
        for (flows, limit) in of(&limits) {
            push("program", program::DRIVER, under(Load::random(shape, flows)), Figure::Itself, Limit::AtMost(limit));
        }
        for (flows, limit) in of(&[0.75, 0.6, 0.6, 0.6]) {
            let figure = Figure::Against(HASH);
            push("program", program::LINES, under(Load::random(shape, flows)), figure, Limit::AtMost(limit));
        }
    }
    // What VPP's nat44-ed takes for flows in order; with the check, which it does not make.
    for (flows, limit) in of(&[110.0, 331.0, 394.0]) {
        let condition = under(Load::in_turn(Shape::Ack, flows));
        push("program", program::DRIVER, condition, Figure::Itself, Limit::Below(limit));
    }
    for shape in [Shape::Udp, Shape::Ack] {
        for (reference, limits) in
            [(DRIVER_REDIRECT, [0.85, 0.65, 0.5]), (NFTABLES, [4.0; 3]), (OPEN_VSWITCH, [8.0; 3])]
        {
            for (flows, limit) in of(&limits) {
                let condition = under(Load::random(shape, flows));
                push("rate", DRIVER, condition, Figure::Against(reference), Limit::AtLeast(limit));
            }
        }
    }
    for (flows, limit) in of(&[5.0, 7.0, 7.0]) {
        let condition = under(Load::in_turn(Shape::Udp, flows));
        push("rate", DRIVER, condition, Figure::Against(NFTABLES), Limit::AtLeast(limit));
    }
    for (who, limit) in [(SKB, 1.1), (stream::USER, 0.9)] {
        // The kernel translates IPv4 only.
        let condition = Some(Family::V4.name().to_owned());
        push("stream", who, condition, Figure::Against(NFTABLES), Limit::AtLeast(limit));
    }
    for who in [DRIVER, SKB] {
        push("setup", who, None, Figure::Against(NFTABLES), Limit::AtLeast(2.0));
    }
    push("memory", memory::LINES, Some(memory::condition(memory::LARGE)), Figure::Itself, Limit::AtMost(320.0));
    all
}

/// Budgets that a run has figures for.
#[derive(Clone, Debug)]
pub(super) struct Budgets(Vec<Judged>);

impl Budgets {
    /// Holds what was measured against them.
    pub(super) fn of(sections: &[Section]) -> Self {
        let judged = budgets().into_iter().flat_map(|budget| {
            let section = sections.iter().find(|section| section.name == budget.section);
            section.map_or_else(Vec::new, |section| {
                let rows = section.rows.iter().filter(|row| budget.is_about(row));
                rows.filter_map(|row| budget.judge(section, row)).collect()
            })
        });
        Self(judged.collect())
    }

    /// For a page; nothing if there are none.
    pub(super) fn markdown(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let mut text = "## Budgets\n\nWhat flowhop is meant to reach, and what the medians of this run are; lines that \
                        this run has no figure for are left out. Times in nanoseconds were set for one machine, and say \
                        nothing about another.\n\n| what | budget | measured | met |\n|---|---:|---:|---|\n"
            .to_owned();
        for Judged { what, limit, measured, met, .. } in &self.0 {
            let met = if *met { "yes" } else { "no" };
            text.push_str(&format!("| {what} | {limit} | {measured} | {met} |\n"));
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        self.0
            .iter()
            .map(|judged| {
                json!({ "what": judged.what, "budget": judged.limit, "measured": judged.value, "met": judged.met })
            })
            .collect()
    }
}

impl Budget {
    fn is_about(&self, row: &Row) -> bool {
        row.who == self.who && self.condition.as_ref().is_none_or(|condition| *condition == row.condition)
    }

    /// `None` if whom it is compared with was not measured.
    fn judge(&self, section: &Section, row: &Row) -> Option<Judged> {
        let about = format!("{}: {}, {}", section.title, row.condition, self.who);
        let (what, value, unit, digits) = match self.figure {
            Figure::Itself => (about, row.median(), format!(" {}", section.unit), section.digits),
            Figure::Against(reference) => {
                (format!("{about}, against {reference}"), section.ratio(row, reference)?, " ×".to_owned(), 3)
            }
        };
        let (sign, limit, met) = match self.limit {
            Limit::AtMost(limit) => ("≤", limit, value <= limit),
            Limit::Below(limit) => ("<", limit, value < limit),
            Limit::AtLeast(limit) => ("≥", limit, value >= limit),
        };
        let measured = format!("{value:.digits$}{unit}");
        Some(Judged { what, limit: format!("{sign} {limit}{unit}"), measured, value, met })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_measured_is_judged() {
        let load = Load::random(Shape::Udp, 1024);
        let rows = vec![
            Row::under(load, DRIVER, vec![3.0]),
            Row::under(load, DRIVER_REDIRECT, vec![4.0]),
            Row::under(load, NFTABLES, vec![0.5]),
        ];
        let budgets = Budgets::of(&[Section::of_packets(rows)]);
        let page = budgets.markdown();
        let lines: Vec<&str> = page.lines().filter(|line| line.starts_with("| Packets")).collect();
        assert_eq!(
            lines,
            [
                "| Packets: UDP, 1024 flows, flowhop driver, NAT, against bare XDP redirect | ≥ 0.85 × | 0.750 × | no |",
                "| Packets: UDP, 1024 flows, flowhop driver, NAT, against kernel, nftables NAT | ≥ 4 × | 6.000 × | yes |",
            ]
        );
        assert_eq!(budgets.json()[1]["met"], true);
    }

    #[test]
    fn a_run_without_figures_has_no_budgets() {
        assert_eq!(Budgets::of(&[Section::of_packets(Vec::new())]).markdown(), "");
    }
}
