//! A plot of lines over time, as SVG.
//!
//! Owns the picture: axes, lines, names. Never measures, never writes a file.

use std::fmt::Write as _;

/// One line: its name, and points of minutes and values.
#[derive(Debug, Clone, Default)]
pub struct Series {
    /// What it is.
    pub name: String,
    /// `(minutes, value)`, by time.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 40.0;
/// Told apart also by readers who do not see red and green.
const COLOURS: [&str; 6] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"];

/// A picture of all lines on common axes, values from 0 on.
#[must_use]
pub fn svg(title: &str, unit: &str, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|series| series.points.iter());
    let minutes = points().map(|point| point.0).fold(1.0, f64::max);
    let highest = round_up(points().map(|point| point.1).fold(1.0, f64::max));
    let x = |minute: f64| LEFT + minute / minutes * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - value / highest * (HEIGHT - TOP - BOTTOM);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{}</text>\n",
        escaped(title)
    );
    for step in 0..=4 {
        let value = highest * f64::from(step) / 4.0;
        let _ = writeln!(
            text,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{1:.1}\" y2=\"{1:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{2:.1}\" y=\"{3:.1}\" text-anchor=\"end\">{value:.0} {4}</text>",
            WIDTH - RIGHT,
            y(value),
            LEFT - 6.0,
            y(value) + 4.0,
            escaped(unit)
        );
        let minute = minutes * f64::from(step) / 4.0;
        let _ = writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{minute:.0} min</text>",
            x(minute),
            HEIGHT - BOTTOM + 18.0
        );
    }
    for (at, (line, colour)) in series.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let points: Vec<String> =
            line.points.iter().map(|(minute, value)| format!("{:.1},{:.1}", x(*minute), y(*value))).collect();
        let _ = writeln!(
            text,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{}</text>",
            points.join(" "),
            WIDTH - RIGHT + 10.0,
            TOP + 16.0 * at as f64,
            escaped(&line.name)
        );
    }
    text.push_str("</svg>\n");
    text
}

/// The next 1, 2 or 5 times a power of ten.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|step| step * power).into_iter().find(|step| *step >= value).unwrap_or(value)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// Whether values stay where they are: the median of the last quarter is at most `tolerance`
/// (0.1: a tenth) or `slack` above the median of the second; both medians. What warms up in the
/// first quarter does not count. `None` for too few points.
#[must_use]
pub fn flat(points: &[(f64, f64)], tolerance: f64, slack: f64) -> Option<(bool, f64, f64)> {
    let quarter = points.len() / 4;
    let early = median(points.get(quarter..2 * quarter)?)?;
    let late = median(points.get(3 * quarter..)?)?;
    Some((late <= early * (1.0 + tolerance) || late <= early + slack, early, late))
}

fn median(points: &[(f64, f64)]) -> Option<f64> {
    let mut values: Vec<f64> = points.iter().map(|point| point.1).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(value: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
        (0..100).map(|minute| (f64::from(minute), value(f64::from(minute)))).collect()
    }

    #[test]
    fn what_grows_for_an_hour_is_not_flat_and_what_warms_up_is() {
        assert_eq!(flat(&points(|_| 20.0), 0.1, 0.0).map(|f| f.0), Some(true));
        assert_eq!(flat(&points(|minute| 20.0 + minute / 5.0), 0.1, 1.0).map(|f| f.0), Some(false));
        assert_eq!(flat(&points(|minute| minute.min(20.0)), 0.1, 0.0).map(|f| f.0), Some(true));
        assert_eq!(flat(&points(|minute| 10.0 + 5.0 * (minute % 2.0)), 0.1, 0.0).map(|f| f.0), Some(true));
        assert_eq!(flat(&[], 0.1, 0.0), None);
    }

    #[test]
    fn a_picture_has_each_line_with_its_name() {
        let series = [("a&b", 1.0), ("c", 2.0)]
            .map(|(name, value)| Series { name: name.into(), points: points(|_| value) });
        let text = svg("memory", "MB", &series);
        assert_eq!(text.matches("<polyline").count(), 2);
        assert!(text.contains("a&amp;b") && text.contains("99 min") && text.ends_with("</svg>\n"));
    }
}
