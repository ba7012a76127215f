//! Measured points, the power law through them, and their picture.
//!
//! Owns fit and drawing. Never measures.

use std::fmt::Write as _;

/// What was measured at rising sizes.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What it is.
    pub name: String,
    /// Its unit.
    pub unit: String,
    /// The law that it should follow.
    pub law: Law,
    /// Size and value, both above 0.
    pub points: Vec<(f64, f64)>,
}

/// A law through points, by least squares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fit {
    /// `factor · size ^ exponent`, fitted on logarithms.
    Power {
        /// Value at size 1.
        factor: f64,
        /// What the size is raised to.
        exponent: f64,
    },
    /// `base + slope · size`.
    Line {
        /// Value at size 0.
        base: f64,
        /// Growth for each.
        slope: f64,
    },
}

/// Which law is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Law {
    /// [`Fit::Power`].
    Power,
    /// [`Fit::Line`]: for what has a large constant part.
    Line,
}

impl Fit {
    /// The law through at least two points of different sizes, all above 0.
    #[must_use]
    pub fn of(law: Law, points: &[(f64, f64)]) -> Option<Fit> {
        let points = points.iter().filter(|(x, y)| *x > 0.0 && *y > 0.0);
        let (base, slope) = match law {
            Law::Power => least_squares(&points.map(|(x, y)| (x.ln(), y.ln())).collect::<Vec<_>>())?,
            Law::Line => least_squares(&points.copied().collect::<Vec<_>>())?,
        };
        Some(match law {
            Law::Power => Fit::Power { factor: base.exp(), exponent: slope },
            Law::Line => Fit::Line { base, slope },
        })
    }

    /// The law's value at a size.
    #[must_use]
    pub fn at(&self, size: f64) -> f64 {
        match self {
            Fit::Power { factor, exponent } => factor * size.powf(*exponent),
            Fit::Line { base, slope } => base + slope * size,
        }
    }

    /// As text: `0.012 · n^1.90` or `6.5 + 0.016 · n`.
    #[must_use]
    pub fn formula(&self) -> String {
        match self {
            Fit::Power { factor, exponent } => format!("{factor:.2e} · n^{exponent:.2}"),
            Fit::Line { base, slope } => format!("{base:.2} + {slope:.4} · n"),
        }
    }
}

/// Value at 0 and slope of the line through points.
fn least_squares(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let count = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    if points.len() < 2 || spread < 1e-9 {
        return None;
    }
    let slope = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>() / spread;
    Some((mean_y - slope * mean_x, slope))
}

/// Panels of one picture: what was measured as points, the law as a line up to 1,000 servers, both axes logarithmic.
///
/// # Errors
/// A text could not be built; never in practice.
pub fn plot(all: &[Series]) -> Result<String, std::fmt::Error> {
    const WIDTH: f64 = 340.0;
    const HEIGHT: f64 = 260.0;
    let columns = 3;
    let rows = all.len().div_ceil(columns);
    let (width, height) = (WIDTH * columns as f64, HEIGHT * rows as f64);
    let mut svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' \
         font-family='system-ui, sans-serif' font-size='12'>\n<rect width='100%' height='100%' fill='white'/>\n"
    );
    for (index, series) in all.iter().enumerate() {
        let (left, top) = (WIDTH * (index % columns) as f64 + 50.0, HEIGHT * (index / columns) as f64 + 30.0);
        panel(&mut svg, series, left, top, WIDTH - 70.0, HEIGHT - 70.0)?;
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn panel(
    svg: &mut String,
    series: &Series,
    left: f64,
    top: f64,
    width: f64,
    height: f64,
) -> Result<(), std::fmt::Error> {
    let fit = Fit::of(series.law, &series.points);
    let sizes = || series.points.iter().map(|(size, _)| *size);
    let (low_x, high_x) = (sizes().fold(f64::INFINITY, f64::min), 1000.0);
    let mut values: Vec<f64> = series.points.iter().map(|(_, value)| *value).collect();
    values.extend(fit.iter().flat_map(|fit| [fit.at(low_x), fit.at(high_x)]));
    let floor = 10f64.powf(values.iter().copied().fold(f64::INFINITY, f64::min).log10().floor());
    let ceiling = 10f64.powf(values.iter().copied().fold(0.0, f64::max).log10().ceil());
    let x = |size: f64| left + (size / low_x).ln() / (high_x / low_x).ln() * width;
    let y = |value: f64| top + height - (value / floor).ln() / (ceiling / floor).ln() * height;
    writeln!(
        svg,
        "<text x='{left}' y='{}' font-weight='600'>{}, {}</text>",
        top - 10.0,
        series.name,
        series.unit
    )?;
    writeln!(
        svg,
        "<rect x='{left}' y='{top}' width='{width}' height='{height}' fill='none' stroke='#999'/>"
    )?;
    let mut mark = floor;
    while mark <= ceiling * 1.01 {
        writeln!(
            svg,
            "<line x1='{left}' x2='{}' y1='{1:.1}' y2='{1:.1}' stroke='#ddd'/>",
            left + width,
            y(mark)
        )?;
        writeln!(svg, "<text x='{}' y='{:.1}' text-anchor='end'>{mark}</text>", left - 4.0, y(mark) + 4.0)?;
        mark *= 10.0;
    }
    for size in [10.0, 20.0, 40.0, 60.0, 100.0, 300.0, 1000.0] {
        if size >= low_x {
            writeln!(
                svg,
                "<text x='{:.1}' y='{}' text-anchor='middle'>{size}</text>",
                x(size),
                top + height + 16.0
            )?;
        }
    }
    if let Some(fit) = fit {
        let steps = (0..=40).map(|step| low_x * (high_x / low_x).powf(f64::from(step) / 40.0));
        let line: Vec<String> =
            steps.map(|size| format!("{:.1},{:.1}", x(size), y(fit.at(size).max(floor)))).collect();
        writeln!(
            svg,
            "<polyline points='{}' fill='none' stroke='#e69f00' stroke-dasharray='5 3'/>",
            line.join(" ")
        )?;
        writeln!(
            svg,
            "<text x='{}' y='{}' text-anchor='end' fill='#a06800'>{}</text>",
            left + width - 6.0,
            top + height - 8.0,
            fit.formula()
        )?;
    }
    for (size, value) in &series.points {
        writeln!(svg, "<circle cx='{:.1}' cy='{:.1}' r='3.5' fill='#0072b2'/>", x(*size), y(*value))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_square_law_is_found_and_followed_beyond_its_points() {
        let fit = Fit::of(Law::Power, &[(10.0, 300.0), (20.0, 1200.0), (40.0, 4800.0)]).unwrap();
        assert!((fit.at(1000.0) - 3e6).abs() < 1.0, "{fit:?}");
        assert_eq!(fit.formula(), "3.00e0 · n^2.00");
    }

    #[test]
    fn a_constant_part_is_kept_apart_from_the_growth() {
        let fit = Fit::of(Law::Line, &[(10.0, 7.0), (20.0, 8.0), (60.0, 12.0)]).unwrap();
        assert!((fit.at(1000.0) - 106.0).abs() < 1e-6, "{fit:?}");
    }

    #[test]
    fn one_size_is_no_curve() {
        assert_eq!(Fit::of(Law::Power, &[(10.0, 1.0), (10.0, 2.0)]), None);
    }

    #[test]
    fn each_point_is_in_the_picture() {
        let series = Series {
            name: "a".into(),
            unit: "s".into(),
            law: Law::Power,
            points: vec![(10.0, 1.0), (20.0, 3.0)],
        };
        let svg = plot(&[series]).unwrap();
        assert_eq!(svg.matches("<circle").count(), 2);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
