//! Results as pictures, drawn by gnuplot.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::load::{Order, Shape};
use super::report::{Row, Section};
use crate::lab::namespace::{find, run};
use crate::lab::{LabError, Tried};

/// A picture beside the page.
#[derive(Clone, Debug)]
pub(super) struct Plot {
    /// Of which section.
    pub(super) section: &'static str,
    pub(super) title: String,
    /// Where it is, as the page names it.
    pub(super) link: String,
}

/// What is drawn of a section.
#[derive(Clone, Copy, Debug)]
enum Chart {
    /// A line for everybody, against the number of flows.
    Flows(Shape, Order),
    /// Bars, a group for each condition.
    Bars,
}

/// Name of the section, name of the file, what it shows.
const CHARTS: [(&str, &str, Chart); 7] = [
    ("rate", "rate-udp", Chart::Flows(Shape::Udp, Order::Random)),
    ("rate", "rate-udp-in-order", Chart::Flows(Shape::Udp, Order::InTurn)),
    ("rate", "rate-tcp", Chart::Flows(Shape::Ack, Order::Random)),
    ("packets", "packets", Chart::Bars),
    ("stream", "stream", Chart::Bars),
    ("program", "program-udp", Chart::Flows(Shape::Udp, Order::Random)),
    ("program", "program-tcp", Chart::Flows(Shape::Ack, Order::Random)),
];

/// Colours that people with any kind of sight tell apart (Okabe and Ito), darkest last.
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000"];

/// Groups of bars whose names have room beside each other.
const LEVEL: usize = 4;

/// Marks that look different: filled circle, square, triangles, diamond, and empty ones.
const POINTS: [u8; 8] = [7, 5, 9, 11, 13, 6, 4, 8];

/// Whether there is a program to draw with.
pub(super) fn can_draw() -> bool {
    find("gnuplot").is_some()
}

/// Draws what there is to draw into a folder, which the page calls `link`.
pub(super) fn draw(sections: &[Section], folder: &Path, link: &str) -> Result<Vec<Plot>, LabError> {
    let program = find("gnuplot").ok_or(LabError::Missing { program: "gnuplot", package: "gnuplot-nox" })?;
    fs::create_dir_all(folder).tried(folder.display())?;
    let mut plots = Vec::new();
    for (name, file, chart) in CHARTS {
        let Some(section) = sections.iter().find(|section| section.name == name) else { continue };
        let Some(script) = script(section, file, chart) else { continue };
        // Without the settings of whoever runs it.
        let mut command = Command::new(&program);
        command.args(["-d", "-"]).current_dir(folder);
        run(command, "gnuplot", &script)?;
        plots.push(Plot { section: section.name, title: title(section, chart), link: format!("{link}/{file}.svg") });
    }
    Ok(plots)
}

fn title(section: &Section, chart: Chart) -> String {
    match chart {
        Chart::Flows(shape, Order::Random) => format!("{}: {}", section.title, shape.name()),
        Chart::Flows(shape, Order::InTurn) => format!("{}: {}, flows in order", section.title, shape.name()),
        Chart::Bars => section.title.to_owned(),
    }
}

/// What gnuplot is told; `None` if there is nothing to be seen.
fn script(section: &Section, file: &str, chart: Chart) -> Option<String> {
    let mut script = format!(
        "set terminal svg noenhanced size 860,440 font 'sans-serif,14' background 'white'\nset output '{file}.svg'\n\
         set title '{}'\nset ylabel '{}'\nset yrange [0:*]\nset grid ytics lc rgb '#d0d0d0'\nset border 3\n\
         set tics nomirror out\nset key outside right center vertical Left reverse spacing 1.3\n",
        quoted(&title(section, chart)),
        quoted(section.unit)
    );
    match chart {
        Chart::Flows(shape, order) => lines(&mut script, section, shape, order)?,
        Chart::Bars => bars(&mut script, section)?,
    }
    Some(script)
}

fn lines(script: &mut String, section: &Section, shape: Shape, order: Order) -> Option<()> {
    let points: Vec<(u32, &Row)> = section
        .rows
        .iter()
        .filter_map(|row| row.load.map(|load| (load, row)))
        .filter(|(load, _)| load.is_plain() && load.form.shape == shape && load.order == order)
        .map(|(load, row)| (load.flows, row))
        .collect();
    let mut sizes: Vec<u32> = points.iter().map(|(flows, _)| *flows).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let (first, last) = (sizes.first()?, sizes.last()?);
    let mut series = Vec::new();
    for (place, who) in everybody(section).into_iter().enumerate() {
        let points: Vec<_> = points.iter().filter(|(_, row)| row.who == who).collect();
        if points.is_empty() {
            continue;
        }
        // Writing to a string does not fail.
        let _written = writeln!(script, "$data{place} << end");
        for (flows, row) in points {
            let _written = writeln!(script, "{flows} {} {} {}", row.median(), row.lowest(), row.highest());
        }
        script.push_str("end\n");
        let style = format!("lw 2 lc rgb '{}' pt {}", COLOURS[place % COLOURS.len()], POINTS[place % POINTS.len()]);
        series.push(format!("$data{place} with yerrorlines {style} title '{}'", quoted(who)));
    }
    let tics: Vec<String> = sizes.iter().map(|flows| format!("'{}' {flows}", short(*flows))).collect();
    let _written = writeln!(
        script,
        "set xlabel 'flows'\nset logscale x 2\nset xrange [{}:{}]\nset xtics ({})\nplot {}",
        f64::from(*first) / 1.3,
        f64::from(*last) * 1.3,
        tics.join(", "),
        series.join(", ")
    );
    Some(())
}

fn bars(script: &mut String, section: &Section) -> Option<()> {
    let mut conditions: Vec<&str> = section.rows.iter().map(|row| row.condition.as_str()).collect();
    conditions.dedup();
    let common = common_end(&conditions)?;
    let mut series = Vec::new();
    for (place, who) in everybody(section).into_iter().enumerate() {
        let _written = writeln!(script, "$data{place} << end");
        for condition in &conditions {
            let row = section.rows.iter().find(|row| row.who == who && row.condition == *condition);
            let numbers = row.map_or_else(
                || "0 0 0".to_owned(),
                |row| format!("{} {} {}", row.median(), row.lowest(), row.highest()),
            );
            let name = condition.strip_suffix(common).unwrap_or(condition);
            let _written = writeln!(script, "\"{name}\" {numbers}");
        }
        script.push_str("end\n");
        let colour = COLOURS[place % COLOURS.len()];
        series.push(format!("$data{place} using 2:3:4:xtic(1) lc rgb '{colour}' title '{}'", quoted(who)));
    }
    if conditions.len() > LEVEL {
        script.push_str("set xtics rotate by 25 right\n");
    }
    let _written = writeln!(
        script,
        "set style data histograms\nset style histogram errorbars gap 1 lw 1.5\nset style fill solid 0.85\n\
         set boxwidth 0.9\nplot {}",
        series.join(", ")
    );
    Some(())
}

/// What all conditions say in the end, from a comma on; `None` if there are none.
fn common_end<'a>(conditions: &[&'a str]) -> Option<&'a str> {
    let (first, rest) = conditions.split_first()?;
    let ends = first.match_indices(',').map(|(place, _)| &first[place..]);
    let common = ends.into_iter().find(|end| !rest.is_empty() && rest.iter().all(|other| other.ends_with(end)));
    Some(common.unwrap_or_default())
}

/// Who has rows, in the order of the first ones: the same for all plots of a section, and so their colours.
fn everybody(section: &Section) -> Vec<&'static str> {
    let mut all = Vec::new();
    for row in &section.rows {
        if !all.contains(&row.who) {
            all.push(row.who);
        }
    }
    all
}

/// A power of two as people write it.
fn short(number: u32) -> String {
    match number.ilog2() {
        0..10 => format!("{number}"),
        10..20 => format!("{} k", number >> 10),
        _ => format!("{} M", number >> 20),
    }
}

/// Text between the quotation marks of a script.
fn quoted(text: &str) -> String {
    text.replace('\'', "''")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::load::{Form, Load, Size};

    #[test]
    fn a_line_has_the_points_of_its_load_only() -> Result<(), String> {
        let row = |load, value| Row::under(load, "flowhop's own", vec![value, value + 1.0]);
        let rows = vec![
            row(Load::random(Shape::Udp, 1024), 1.0),
            row(Load::in_turn(Shape::Udp, 1024), 2.0),
            row(Load::random(Shape::Ack, 1024), 3.0),
            row(Load::random(Shape::Udp, 65_536), 4.0),
        ];
        let script = script(&Section::of_packets(rows), "file", Chart::Flows(Shape::Udp, Order::Random))
            .ok_or("nothing to be seen")?;
        assert!(script.contains("<< end\n1024 1 1 2\n65536 4 4 5\nend\n"), "{script}");
        assert!(script.contains("title 'flowhop''s own'"), "{script}");
        assert!(script.contains("('1 k' 1024, '64 k' 65536)"), "{script}");
        Ok(())
    }

    #[test]
    fn other_packets_are_no_points_of_a_line() {
        let rows = vec![Row::under(Load::of(Form::v6(Shape::Udp), Size::Shortest, 1024), "a", vec![1.0])];
        assert!(script(&Section::of_packets(rows), "file", Chart::Flows(Shape::Udp, Order::Random)).is_none());
    }

    #[test]
    fn names_of_bars_leave_out_what_all_of_them_say() -> Result<(), String> {
        let loads = [Size::Shortest, Size::Bytes(590)].map(|size| Load::of(Form::plain(Shape::Udp), size, 1024));
        let rows = loads.into_iter().map(|load| Row::under(load, "a", vec![1.0])).collect();
        let script = script(&Section::of_packets(rows), "file", Chart::Bars).ok_or("nothing to be seen")?;
        assert!(script.contains("\"UDP\" 1 1 1\n\"UDP, 590 bytes\" 1 1 1\n"), "{script}");
        assert_eq!(common_end(&["IPv4", "IPv6"]), Some(""));
        Ok(())
    }

    #[test]
    fn what_nobody_measured_is_no_plot() {
        let rows = vec![Row::under(Load::random(Shape::Udp, 1024), "a", vec![1.0])];
        assert!(script(&Section::of_packets(rows), "file", Chart::Flows(Shape::Ack, Order::Random)).is_none());
        assert!(script(&Section::of_packets(Vec::new()), "file", Chart::Bars).is_none());
    }
}
