//! Figures drawn, as SVG.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use engine::stages::Stage;
use hdrhistogram::Histogram;
use plotters::coord::Shift;
use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;

use super::sweep;

const SIZE: (u32, u32) = (900, 540);
/// Height of a bar with its margin.
const BAR: u32 = 22;
const COLOURS: [RGBColor; 8] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(255, 127, 14),
    RGBColor(148, 103, 189),
    RGBColor(127, 127, 127),
    RGBColor(140, 86, 75),
    RGBColor(188, 189, 34),
];

type Chart<'a, 'b, X, Y> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, Y>>;

/// A line of a plot: its name and points.
pub type Line = (String, Vec<(f64, f64)>);

/// What stands at a plot's edges.
#[derive(Debug, Clone, Copy)]
pub struct Labels<'a> {
    pub title: &'a str,
    pub x: &'a str,
    pub y: &'a str,
}

fn in_file<T>(
    path: &Path,
    size: (u32, u32),
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, Shift>) -> Result<T>,
) -> Result<()> {
    let go = || -> Result<()> {
        let area = SVGBackend::new(path, size).into_drawing_area();
        area.fill(&WHITE)?;
        draw(&area)?;
        area.present()?;
        Ok(())
    };
    go().with_context(|| format!("drawing {}", path.display()))
}

/// Lines over a logarithmic axis, from zero upwards.
///
/// # Errors
/// If there is no point or the file cannot be written.
pub fn lines(path: &Path, labels: Labels<'_>, lines: &[Line]) -> Result<()> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let edge = |of: fn(f64, f64) -> f64, start| points().map(|p| p.0).fold(start, of);
    let (low, high) = (edge(f64::min, f64::INFINITY), edge(f64::max, 0.0));
    let top = points().map(|p| p.1).fold(0.0, f64::max);
    ensure!(low > 0.0 && low.is_finite() && top > 0.0, "no points for {}", path.display());
    // A single number of flows needs some width too.
    let high = if high > low { high } else { low * 10.0 };
    in_file(path, SIZE, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(labels.title, ("sans-serif", 22))
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d((low..high).log_scale(), 0.0..top * 1.1)?;
        chart.configure_mesh().x_desc(labels.x).y_desc(labels.y).draw()?;
        series(&mut chart, lines, 3)
    })
}

/// Draw lines, and which is which if there are several. `dots` is how large their points are.
fn series<'a, 'b: 'a, X, Y>(
    chart: &mut Chart<'a, 'b, X, Y>,
    lines: &[Line],
    dots: u32,
) -> Result<()>
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    for (at, (name, points)) in lines.iter().enumerate() {
        let style = COLOURS[at % COLOURS.len()].stroke_width(2);
        let line = LineSeries::new(points.iter().copied(), style).point_size(dots);
        let sample = move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style);
        chart.draw_series(line)?.label(name).legend(sample);
    }
    legend(chart, lines.len())
}

/// Say what is what, where there is more than one thing.
fn legend<'a, 'b: 'a, X, Y>(chart: &mut Chart<'a, 'b, X, Y>, things: usize) -> Result<()>
where
    X: Ranged,
    Y: Ranged,
{
    if things > 1 {
        let mut labels = chart.configure_series_labels();
        labels.background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    }
    Ok(())
}

/// Bars one above the other: for each name its parts, in the order of `parts`.
///
/// # Errors
/// If there is nothing to draw or the file cannot be written.
pub fn stacks(
    path: &Path,
    labels: Labels<'_>,
    parts: &[&str],
    bars: &[(String, Vec<f64>)],
) -> Result<()> {
    let top = bars.iter().map(|(_, parts)| parts.iter().sum::<f64>()).fold(0.0, f64::max);
    ensure!(top > 0.0, "no bars for {}", path.display());
    let count = bars.len() as i32;
    let size = (SIZE.0, 140 + BAR * bars.len() as u32);
    in_file(path, size, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(labels.title, ("sans-serif", 22))
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(190)
            .build_cartesian_2d(0.0..top * 1.05, (0..count).into_segmented())?;
        let name = |at: &SegmentValue<i32>| match at {
            SegmentValue::CenterOf(at) => {
                bars.get(*at as usize).map_or("".into(), |(n, _)| n.clone())
            }
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .disable_y_mesh()
            .x_desc(labels.x)
            .y_labels(bars.len())
            .y_label_formatter(&name)
            .draw()?;
        for (part, what) in parts.iter().enumerate() {
            let colour = COLOURS[part % COLOURS.len()];
            let style = colour.filled();
            let rectangles = bars.iter().enumerate().filter_map(|(at, (_, values))| {
                let before: f64 = values.iter().take(part).sum();
                let value = *values.get(part)?;
                let at = at as i32;
                let (low, high) = (SegmentValue::Exact(at), SegmentValue::Exact(at + 1));
                let mut bar = Rectangle::new([(before, low), (before + value, high)], style);
                bar.set_margin(3, 3, 0, 0);
                Some(bar)
            });
            chart
                .draw_series(rectangles)?
                .label(*what)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], style));
        }
        legend(&mut chart, parts.len())
    })
}

/// The name of a plot on the command line, checked before anything is measured for it.
///
/// # Errors
/// If it is no `.svg`, or its directory is not there.
pub fn file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.extension().is_none_or(|ending| ending != "svg") {
        return Err(format!("`{text}`: plots are SVG, the name of the file ends in .svg"));
    }
    let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    match parent {
        Some(dir) if !dir.is_dir() => Err(format!("there is no directory {}", dir.display())),
        _ => Ok(path),
    }
}

/// What a packet costs by stage, one bar for each name.
///
/// # Errors
/// As for [`stacks`].
pub fn stages(path: &Path, bars: &[(String, Vec<f64>)]) -> Result<()> {
    let labels = Labels { title: "Cost of a packet by stage", x: "cycles", y: "" };
    stacks(path, labels, &Stage::ALL.map(Stage::name), bars)
}

/// How delays are distributed: the share of packets that took longer than so much, both logarithmic.
///
/// # Errors
/// If there is no delay or the file cannot be written.
pub fn latency(path: &Path, title: &str, histograms: &[(String, &Histogram<u64>)]) -> Result<()> {
    let curves: Vec<Line> =
        histograms.iter().map(|(name, h)| (name.clone(), exceeding(h))).collect();
    let points = || curves.iter().flat_map(|(_, points)| points);
    let high = points().map(|p| p.0).fold(0.0, f64::max);
    let low = points().map(|p| p.0).fold(f64::INFINITY, f64::min);
    let least = points().map(|p| p.1).fold(1.0, f64::min);
    ensure!(high > 0.0, "no delays for {}", path.display());
    in_file(path, SIZE, |area| {
        let mut chart = ChartBuilder::on(area)
            .caption(title, ("sans-serif", 22))
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(80)
            .build_cartesian_2d(
                (low..high.max(low * 2.0)).log_scale(),
                (least / 2.0..1.0).log_scale(),
            )?;
        chart
            .configure_mesh()
            .x_desc("microseconds")
            .y_desc("share of packets that took longer")
            .y_label_formatter(&|share| format!("{share:.0e}"))
            .draw()?;
        series(&mut chart, &curves, 0)
    })
}

/// Points (microseconds, share of packets that took at least as long).
fn exceeding(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let all = histogram.len() as f64;
    let mut before = 0;
    let mut points = Vec::new();
    for value in histogram.iter_recorded() {
        points.push((value.value_iterated_to() as f64 / 1000.0, 1.0 - before as f64 / all));
        before += value.count_since_last_iteration();
    }
    points
}

/// Throughput against flows.
///
/// # Errors
/// If the file cannot be written.
pub fn sweep(path: &Path, report: &sweep::Report) -> Result<()> {
    let points = report.points.iter();
    let points = points.map(|p| (f64::from(p.flows), p.figures.carried_pps / 1e6)).collect();
    let labels = Labels { title: "Throughput against flows", x: "flows", y: "Mpps" };
    lines(path, labels, &[(report.traffic.clone(), points)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(draw: impl FnOnce(&Path) -> Result<()>) -> String {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("plot.svg");
        draw(&path).expect("a plot");
        std::fs::read_to_string(path).expect("a file")
    }

    #[test]
    fn plots_have_their_titles_and_names() {
        let labels = Labels { title: "A title", x: "flows", y: "Mpps" };
        let two = [
            ("one".to_owned(), vec![(1.0, 2.0), (1000.0, 3.0)]),
            ("other".to_owned(), vec![(1.0, 1.0)]),
        ];
        let text = drawn(|path| lines(path, labels, &two));
        for word in ["<svg", "A title", "flows", "Mpps", "other", "</svg>"] {
            assert!(text.contains(word), "{word}");
        }
        let bars = [("row-1".to_owned(), vec![10.0, 20.0]), ("row-2".to_owned(), vec![5.0])];
        let text = drawn(|path| stacks(path, labels, &["receive", "lookup"], &bars));
        for word in ["row-1", "row-2", "receive", "lookup"] {
            assert!(text.contains(word), "{word}");
        }
        let mut histogram = Histogram::<u64>::new(3).expect("a histogram");
        for n in 1..10_000 {
            histogram.record(n * 10).expect("in range");
        }
        let text = drawn(|path| latency(path, "Delays", &[("50 %".to_owned(), &histogram)]));
        assert!(text.contains("Delays") && text.contains("microseconds"));
    }

    #[test]
    fn names_of_plots_are_checked_before() {
        let dir = tempfile::tempdir().expect("a directory");
        let there = dir.path().join("x.svg").display().to_string();
        assert!(file("x.svg").is_ok() && file(&there).is_ok());
        assert!(file("x.png").is_err_and(|e| e.contains(".svg")));
        assert!(file("svg").is_err() && file("").is_err());
        assert!(file("/nonexistent/x.svg").is_err_and(|e| e.contains("no directory /nonexistent")));
    }

    #[test]
    fn nothing_is_not_drawn() {
        let labels = Labels { title: "", x: "", y: "" };
        assert!(lines(Path::new("/nonexistent/x.svg"), labels, &[]).is_err());
        assert!(stacks(Path::new("/nonexistent/x.svg"), labels, &[], &[]).is_err());
        let empty = Histogram::<u64>::new(3).expect("a histogram");
        assert!(latency(Path::new("/nonexistent/x.svg"), "", &[("".into(), &empty)]).is_err());
    }
}
