//! Charts.

use std::fs;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Result;
use crate::figures::Figure;
use crate::rounds::Measured;
use crate::rows::Work;
use crate::table::{number, ratio};

/// Each file with its title and its rows.
const CHARTS: [(&str, &str, &[&str]); 5] = [
    ("performance.svg", "Locks on Redis and etcd", &["redis-own", "redis-key-8", "etcd-own", "etcd-key-8"]),
    ("performance-redis.svg", "Redis", &["redis-one", "redis-own", "redis-key-8", "redis-tasks-1000"]),
    ("performance-etcd.svg", "etcd", &["etcd-one", "etcd-own", "etcd-key-8", "etcd-tasks-1000"]),
    ("performance-memory.svg", "In memory", &["memory-one", "memory-tasks-8", "memory-tasks-1000"]),
    ("performance-rest.svg", "At rest", &["redis-held-10k", "redis-waited", "etcd-held-10k", "etcd-waited"]),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: i32 = 960;
/// Bars begin here, for the main figure and for the processor time, and have these lengths at most.
const MAIN: (i32, i32) = (220, 270);
const CPU: (i32, i32) = (630, 220);
const LINE: i32 = 24;
const BAR: i32 = 15;
/// Above the bars of a row.
const HEADING: i32 = 46;
const TOP: i32 = 16;
/// The right end of the ratios.
const RATIO: i32 = 600;
/// plotters divides the sizes of fonts by this.
const PLOTTERS: f64 = 1.24;

const CARD: RGBColor = RGBColor(251, 252, 253);
const TEXT: RGBColor = RGBColor(31, 41, 51);
const FAINT: RGBColor = RGBColor(82, 96, 109);
const OURS: RGBColor = RGBColor(47, 133, 90);
const OTHERS: RGBColor = RGBColor(154, 165, 177);
const CLIENT: RGBColor = RGBColor(214, 158, 46);
const SERVER: RGBColor = RGBColor(43, 108, 176);

/// Writes the charts whose rows have been measured.
pub fn write(rows: &[Measured], folder: &Path) -> Result<()> {
    for (file, title, names) in CHARTS {
        let named = |name: &&str| rows.iter().find(|measured| measured.row.name == *name);
        let rows: Vec<_> = names.iter().filter_map(named).collect();
        if !rows.is_empty() {
            fs::write(folder.join(file), chart(title, &rows)?)?;
        }
    }
    Ok(())
}

fn chart(title: &str, rows: &[&Measured]) -> Result<String> {
    let height = TOP + rows.iter().map(|measured| height(measured)).sum::<i32>() + 8;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH as u32, height as u32)).into_drawing_area();
        let mut top = TOP;
        for measured in rows {
            row(&area, top, measured)?;
            top += self::height(measured);
        }
        area.present()?;
    }
    // As wide as the page; a card, so that it can be read on a dark page as well.
    let (_, shapes) = svg.split_once(">\n").ok_or("no head")?;
    let font = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif";
    let fill = format!("#{:02x}{:02x}{:02x}", CARD.0, CARD.1, CARD.2);
    let shapes = shapes.replace("font-family=\"sans-serif\" ", "");
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"100%\" role=\"img\" \
         aria-label=\"{title}: measured rates and processor times\" font-family=\"{font}\">\n\
         <rect x=\"1\" y=\"1\" width=\"{}\" height=\"{}\" rx=\"10\" fill=\"{fill}\" stroke=\"#9aa5b1\"/>\n{shapes}",
        WIDTH - 2,
        height - 2,
    ))
}

fn height(measured: &Measured) -> i32 {
    HEADING + measured.results.len() as i32 * LINE + 12
}

/// The figure of a row beside the processor time.
fn main_figure(work: Work) -> (Figure, &'static str) {
    match work {
        Work::Held { .. } => (Figure::Memory, "bytes of the client for each lock"),
        Work::Waiting { .. } => (Figure::Requests, "requests a second"),
        Work::OneKey { .. } => (Figure::Rate, "handovers a second"),
        Work::Local => (Figure::Rate, "operations a second"),
        Work::OwnKeys { .. } | Work::DisturbedKeys { .. } => (Figure::Rate, "lock + unlock a second"),
    }
}

fn row(area: &Area<'_>, top: i32, measured: &Measured) -> Result<()> {
    let (figure, unit) = main_figure(measured.row.work);
    let is_at_rest = measured.row.work.is_at_rest();
    text(area, (20, top + 10), measured.row.title, &style(15, TEXT).bold(), HPos::Left)?;
    text(area, (MAIN.0, top + 32), unit, &style(12, FAINT), HPos::Left)?;
    legend(area, top + 32, if is_at_rest { "CPU, ms a second" } else { "CPU, µs" })?;
    let results = || measured.results.iter().map(|(_, samples)| samples);
    let most = results().filter_map(|samples| samples.median(figure)).fold(f64::MIN_POSITIVE, f64::max);
    let cpu = |figure| move |samples: &crate::figures::Samples| samples.median(figure).unwrap_or_default();
    let (client, server) = (cpu(Figure::ClientCpu), cpu(Figure::ServerCpu));
    let most_cpu = results().map(|samples| client(samples) + server(samples)).fold(f64::MIN_POSITIVE, f64::max);
    for (line, (contender, samples)) in measured.results.iter().enumerate() {
        let middle = top + HEADING + line as i32 * LINE + LINE / 2;
        let name = style(13, TEXT);
        let name = if contender.is_ours() { name.bold() } else { name };
        text(area, (MAIN.0 - 10, middle), contender.name(measured.row), &name, HPos::Right)?;
        let Some(value) = samples.median(figure) else { continue };
        let color = if contender.is_ours() { OURS } else { OTHERS };
        let end = bar(area, middle, MAIN.0, length(value, most, MAIN.1), color)?;
        text(area, (end + 6, middle), &number(value), &style(12, TEXT), HPos::Left)?;
        if let Some(text) =
            (line > 0 && figure == Figure::Rate).then(|| samples.ratio(figure, measured.baseline())).flatten()
        {
            self::text(area, (RATIO, middle), &format!("{} ×", ratio(text)), &style(12, FAINT), HPos::Right)?;
        }
        let end = bar(area, middle, CPU.0, length(client(samples), most_cpu, CPU.1), CLIENT)?;
        let end = bar(area, middle, end, length(server(samples), most_cpu, CPU.1), SERVER)?;
        let scale = if is_at_rest { 1e3 } else { 1e6 };
        let total = number((client(samples) + server(samples)) * scale);
        text(area, (end + 6, middle), &total, &style(12, TEXT), HPos::Left)?;
    }
    Ok(())
}

fn legend(area: &Area<'_>, middle: i32, unit: &str) -> Result<()> {
    text(area, (CPU.0, middle), unit, &style(12, FAINT), HPos::Left)?;
    for (left, color, name) in [(CPU.0 + 120, CLIENT, "client"), (CPU.0 + 190, SERVER, "server")] {
        area.draw(&Rectangle::new([(left, middle - 5), (left + 10, middle + 5)], color.filled()))?;
        text(area, (left + 15, middle), name, &style(12, FAINT), HPos::Left)?;
    }
    Ok(())
}

fn length(value: f64, most: f64, longest: i32) -> i32 {
    (value / most * f64::from(longest)).round() as i32
}

/// Draws a bar and returns its end.
fn bar(area: &Area<'_>, middle: i32, left: i32, length: i32, color: RGBColor) -> Result<i32> {
    let end = left + length;
    if length > 0 {
        area.draw(&Rectangle::new([(left, middle - BAR / 2), (end, middle + BAR / 2)], color.filled()))?;
    }
    Ok(end)
}

fn style(size: i32, color: RGBColor) -> Font {
    Font { size, color, is_bold: false }
}

struct Font {
    size: i32,
    color: RGBColor,
    is_bold: bool,
}

impl Font {
    fn bold(self) -> Self {
        Self { is_bold: true, ..self }
    }
}

fn text(area: &Area<'_>, at: (i32, i32), text: &str, font: &Font, side: HPos) -> Result<()> {
    let weight = if font.is_bold { FontStyle::Bold } else { FontStyle::Normal };
    let style = TextStyle::from(("sans-serif", f64::from(font.size) * PLOTTERS, weight).into_font()).color(&font.color);
    area.draw_text(text, &style.pos(Pos::new(side, VPos::Center)), at)?;
    Ok(())
}
