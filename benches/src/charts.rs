//! Charts.

use std::fs;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Result;
use crate::figures::{Figure, Samples};
use crate::rounds::Measured;
use crate::rows::{Row, Store, Work};
use crate::table::{number, ratio};

/// Each file with its title and its rows.
const CHARTS: [(&str, &str, &[&str]); 6] = [
    ("performance.svg", "Locks on Redis and etcd", &["redis-own", "redis-key-8", "etcd-own", "etcd-key-8"]),
    ("performance-redis.svg", "Redis", &["redis-one", "redis-own", "redis-key-8", "redis-tasks-1000"]),
    ("performance-cluster.svg", "A Redis cluster", &["cluster-one", "cluster-own", "cluster-key-8", "cluster-waited"]),
    ("performance-etcd.svg", "etcd", &["etcd-one", "etcd-own", "etcd-key-8", "etcd-tasks-1000"]),
    ("performance-memory.svg", "In memory", &["memory-one", "memory-tasks-8", "memory-tasks-1000"]),
    ("performance-rest.svg", "At rest", &["redis-held-10k", "redis-waited", "etcd-held-10k", "etcd-waited"]),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: i32 = 960;
/// Bars begin here, for the main figure and for the processor time, and have these lengths at most.
const MAIN: (i32, f64) = (220, 250.0);
const CPU: (i32, f64) = (640, 220.0);
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
        Work::OneKey { .. } | Work::Processes { .. } => (Figure::Rate, "handovers a second"),
        Work::Local => (Figure::Rate, "operations a second"),
        Work::OwnKeys { .. } | Work::DisturbedKeys { .. } => (Figure::Rate, "lock + unlock a second"),
    }
}

fn row(area: &Area<'_>, top: i32, measured: &Measured) -> Result<()> {
    let (figure, unit) = main_figure(measured.row.work);
    text(area, (20, top + 10), measured.row.title, HPos::Left, &TITLE)?;
    text(area, (MAIN.0, top + 32), unit, HPos::Left, &NOTE)?;
    if figure == Figure::Rate {
        text(area, (RATIO, top + 32), "ratio", HPos::Right, &NOTE)?;
    }
    legend(area, top + 32, measured.row)?;
    let most = |value: &dyn Fn(&Samples) -> f64| {
        measured.results.iter().map(|(_, samples)| value(samples)).fold(f64::MIN_POSITIVE, f64::max)
    };
    let most_cpu = most(&|samples| cpu(samples).iter().sum());
    let most = most(&|samples| samples.median(figure).unwrap_or_default());
    for (line, (contender, samples)) in measured.results.iter().enumerate() {
        let middle = top + HEADING + line as i32 * LINE + LINE / 2;
        let (font, color) = if contender.is_ours() { (&OUR_NAME, OURS) } else { (&NAME, OTHERS) };
        text(area, (MAIN.0 - 10, middle), contender.name(measured.row), HPos::Right, font)?;
        let Some(value) = samples.median(figure) else { continue };
        let end = bar(area, middle, MAIN.0, value / most * MAIN.1, color)?;
        text(area, (end + 6, middle), &number(value), HPos::Left, &VALUE)?;
        if let (Figure::Rate, 1.., Some(value)) = (figure, line, samples.ratio(figure, measured.baseline())) {
            text(area, (RATIO, middle), &format!("{} ×", ratio(value)), HPos::Right, &NOTE)?;
        }
        processor_times(area, middle, samples, most_cpu, measured.row.work.is_at_rest())?;
    }
    Ok(())
}

fn processor_times(area: &Area<'_>, middle: i32, samples: &Samples, most: f64, is_at_rest: bool) -> Result<()> {
    let [client, server] = cpu(samples);
    if client + server > 0.0 {
        let end = bar(area, middle, CPU.0, client / most * CPU.1, CLIENT)?;
        let end = bar(area, middle, end, server / most * CPU.1, SERVER)?;
        let total = (client + server) * if is_at_rest { 1e3 } else { 1e6 };
        text(area, (end + 6, middle), &number(total), HPos::Left, &VALUE)?;
    }
    Ok(())
}

/// The processor times of client and server.
fn cpu(samples: &Samples) -> [f64; 2] {
    [Figure::ClientCpu, Figure::ServerCpu].map(|figure| samples.median(figure).unwrap_or_default())
}

fn legend(area: &Area<'_>, middle: i32, row: &Row) -> Result<()> {
    let unit = if row.work.is_at_rest() { "CPU, ms a second" } else { "CPU of an operation, µs" };
    text(area, (CPU.0, middle), unit, HPos::Left, &NOTE)?;
    let both = [(CPU.0 + 170, CLIENT, "client"), (CPU.0 + 240, SERVER, "server")];
    // In memory there is none.
    let shown = if matches!(row.store, Store::File | Store::Memory) { &both[..0] } else { &both[..] };
    for &(left, color, name) in shown {
        area.draw(&Rectangle::new([(left, middle - 5), (left + 10, middle + 5)], color.filled()))?;
        text(area, (left + 15, middle), name, HPos::Left, &NOTE)?;
    }
    Ok(())
}

/// Draws a bar and returns its end.
fn bar(area: &Area<'_>, middle: i32, left: i32, length: f64, color: RGBColor) -> Result<i32> {
    let end = left + length.round() as i32;
    if end > left {
        area.draw(&Rectangle::new([(left, middle - BAR / 2), (end, middle + BAR / 2)], color.filled()))?;
    }
    Ok(end)
}

/// Draws text whose left or right end, at half of its height, is at a point.
fn text(area: &Area<'_>, at: (i32, i32), text: &str, side: HPos, font: &Font) -> Result<()> {
    let style = TextStyle::from(("sans-serif", font.size * PLOTTERS, font.weight).into_font()).color(&font.color);
    area.draw_text(text, &style.pos(Pos::new(side, VPos::Center)), at)?;
    Ok(())
}

struct Font {
    size: f64,
    weight: FontStyle,
    color: RGBColor,
}

const TITLE: Font = Font { size: 15.0, weight: FontStyle::Bold, color: TEXT };
const NAME: Font = Font { size: 13.0, weight: FontStyle::Normal, color: TEXT };
const OUR_NAME: Font = Font { size: 13.0, weight: FontStyle::Bold, color: TEXT };
const VALUE: Font = Font { size: 12.0, weight: FontStyle::Normal, color: TEXT };
const NOTE: Font = Font { size: 12.0, weight: FontStyle::Normal, color: FAINT };
