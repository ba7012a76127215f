//! What the user sees.
//!
//! Owns the live table on a terminal, and the plain lines elsewhere. Knows no state of its own but what
//! it drew last.

use std::io::{self, IsTerminal as _, Write as _};

use crossterm::{cursor, queue, style, terminal};

use super::process::Row;

/// Standard output.
pub struct Screen {
    terminal: bool,
    drawn_lines: u16,
    drawn: Vec<String>,
    told: Vec<(String, String, &'static str)>,
}

impl Screen {
    /// A table if standard output is a terminal, lines otherwise.
    pub fn new() -> Self {
        Self { terminal: io::stdout().is_terminal(), drawn_lines: 0, drawn: Vec::new(), told: Vec::new() }
    }

    /// A line that stays.
    pub fn line(&mut self, text: &str) {
        self.erase();
        let mut out = io::stdout().lock();
        // Nobody reading is no reason to stop the servers.
        let _unread = writeln!(out, "{text}").and_then(|()| out.flush());
    }

    /// Shows what happened, and the servers as they are now.
    pub fn show(&mut self, news: &[String], headline: &str, rows: &[Row]) {
        if self.terminal {
            news.iter().for_each(|line| self.line(line));
            self.draw(headline, rows);
        } else {
            self.tell(rows);
            news.iter().for_each(|line| self.line(line));
        }
    }

    fn draw(&mut self, headline: &str, rows: &[Row]) {
        let (width, height) =
            terminal::size().map_or((100, 40), |(columns, lines)| (usize::from(columns), usize::from(lines)));
        let mut lines = vec![String::new(), headline.to_owned()];
        lines.extend(table(rows));
        // What has scrolled away cannot be drawn over.
        let room = height.saturating_sub(2).max(4);
        if lines.len() > room {
            let more = lines.len() - room + 1;
            lines.truncate(room - 1);
            lines.push(format!("… and {more} more"));
        }
        let lines: Vec<String> =
            lines.iter().map(|line| line.chars().take(width.saturating_sub(1)).collect()).collect();
        if self.drawn == lines && self.drawn_lines > 0 {
            return;
        }
        self.erase();
        let mut out = io::stdout().lock();
        let _unread = lines.iter().try_for_each(|line| writeln!(out, "{line}")).and_then(|()| out.flush());
        self.drawn_lines = u16::try_from(lines.len()).unwrap_or(u16::MAX);
        self.drawn = lines;
    }

    fn erase(&mut self) {
        if self.drawn_lines > 0 {
            let clear = terminal::Clear(terminal::ClearType::FromCursorDown);
            let up = cursor::MoveToPreviousLine(self.drawn_lines);
            let _unread = queue!(io::stdout(), up, clear, style::ResetColor);
            self.drawn_lines = 0;
        }
    }

    /// One line for each server whose state changed.
    fn tell(&mut self, rows: &[Row]) {
        let told: Vec<_> = rows.iter().map(|row| (row.name.clone(), row.url.clone(), row.state)).collect();
        let gone: Vec<_> =
            self.told.iter().filter(|(name, ..)| told.iter().all(|(now, ..)| now != name)).collect();
        let mut lines: Vec<String> = gone.iter().map(|(name, ..)| format!("{name} gone")).collect();
        for (row, now) in rows.iter().zip(&told) {
            if !self.told.contains(now) {
                lines.push(format!("{} {} {} (monitoring {})", row.name, row.state, row.url, row.monitor));
            }
        }
        self.told = told;
        lines.iter().for_each(|line| self.line(line));
    }
}

/// Rows under aligned headings.
fn table(rows: &[Row]) -> Vec<String> {
    let count = |n: Option<u32>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let mut cells = vec![["NAME", "URL", "STATE", "ROUTES", "CONNECTIONS", "MSGS/S"].map(str::to_owned)];
    cells.extend(rows.iter().map(|row| {
        [
            row.name.clone(),
            row.url.clone(),
            row.state.to_owned(),
            count(row.routes),
            row.connections.to_string(),
            format!("{:.0}", row.messages_per_second),
        ]
    }));
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    cells
        .iter()
        .map(|row| {
            let padded = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                if column < 3 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_stand_right() {
        let row = |name: &str, messages_per_second| Row {
            name: name.to_owned(),
            url: "nats://127.0.0.1:4222".to_owned(),
            monitor: "http://127.0.0.1:8222".to_owned(),
            state: "ready",
            routes: Some(2),
            connections: 12,
            messages_per_second,
        };
        let lines = table(&[row("a-0", 7.4), row("a-10", 123_456.0)]);
        assert_eq!(lines[0], "NAME  URL                    STATE  ROUTES  CONNECTIONS  MSGS/S");
        assert_eq!(lines[1], "a-0   nats://127.0.0.1:4222  ready       2           12       7");
        assert_eq!(lines[2], "a-10  nats://127.0.0.1:4222  ready       2           12  123456");
    }
}
