//! Lines in the log about what comes in and goes out (`trace`).
//!
//! Owns which bytes they are about; their texts are `wire`'s. Off, it costs a load and a branch for each write.

use super::Router;
use crate::link::{Link, LinkKind};
use crate::output::Segment;
use wire::lines::Lines;

impl Router {
    /// From now on every operation has its line in the log, or none.
    pub fn set_lines(&mut self, lines: Option<Lines>) {
        self.lines = lines;
    }

    /// The line about an operation of `link`, if operations have lines.
    #[inline]
    pub fn log_received(&self, link: &Link, operation: &[u8]) {
        if let Some(lines) = &self.lines {
            log(link, |each| lines.received(operation, each));
        }
    }

    /// Lines about what is said to `link`, other than messages.
    #[inline]
    pub(super) fn log_protocol(&self, link: &Link, bytes: &[u8]) {
        if let Some(lines) = &self.lines {
            log(link, |each| lines.sent(bytes, each));
        }
    }

    /// Lines about the messages that were rendered for `link`.
    #[cold]
    pub(super) fn log_messages(&self, link: &Link, read: &[u8]) {
        let mut bytes = Vec::new();
        for segment in &self.scratch.segments {
            let (of, start, end) = match *segment {
                Segment::Scratch(start, end) => (self.scratch.bytes(), start, end),
                Segment::Body(start, end, _) => (read, start, end),
            };
            bytes.extend_from_slice(of.get(start as usize..end as usize).unwrap_or_default());
        }
        self.log_protocol(link, &bytes);
    }
}

/// The target of these lines: of what libraries say at this level nothing is logged.
pub const TARGET: &str = "protocol";

#[cold]
fn log(link: &Link, lines: impl FnOnce(&mut dyn FnMut(&str))) {
    if link.kind != LinkKind::Internal {
        let who = link.describe();
        lines(&mut |line| tracing::trace!(target: TARGET, "{who} - {line}"));
    }
}
