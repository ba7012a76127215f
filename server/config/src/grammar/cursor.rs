//! A place in a text that moves forward. Owns line and column counting, white space and comments.

use std::sync::Arc;

use crate::error::{Error, Position, Problem};

/// Reads one text from front to back.
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
    line: u32,
    column: u32,
    file: Arc<str>,
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a str, file: Arc<str>) -> Self {
        Cursor { text, at: 0, line: 1, column: 1, file }
    }

    pub fn position(&self) -> Position {
        Position { file: Arc::clone(&self.file), line: self.line, column: self.column }
    }

    pub fn file(&self) -> &str {
        &self.file
    }

    /// Byte offset, for [`Cursor::since`].
    pub fn offset(&self) -> usize {
        self.at
    }

    /// The text from an earlier offset up to here.
    pub fn since(&self, start: usize) -> &'a str {
        &self.text[start..self.at]
    }

    pub fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    /// The character after the next one.
    pub fn peek_second(&self) -> Option<char> {
        self.text[self.at..].chars().nth(1)
    }

    pub fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    pub fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        if c == '\n' {
            self.line = self.line.saturating_add(1);
            self.column = 1;
        } else {
            self.column = self.column.saturating_add(1);
        }
        Some(c)
    }

    /// Takes the next character if it is `wanted`.
    pub fn take(&mut self, wanted: char) -> bool {
        let matched = self.peek() == Some(wanted);
        if matched {
            self.next();
        }
        matched
    }

    pub fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let start = self.at;
        while self.peek().is_some_and(&wanted) {
            self.next();
        }
        self.since(start)
    }

    /// Skips spaces and tabs.
    pub fn skip_blanks(&mut self) {
        self.take_while(is_blank);
    }

    /// Skips a comment that starts here, up to its line's end; false if none does.
    pub fn skip_comment(&mut self) -> bool {
        let starts = match self.peek() {
            Some('#') => true,
            Some('/') => self.peek_second() == Some('/'),
            _ => false,
        };
        if starts {
            self.take_while(|c| !is_newline(c));
        }
        starts
    }

    /// Skips white space, line ends and comments.
    pub fn skip_space_and_comments(&mut self) {
        loop {
            self.take_while(char::is_whitespace);
            if !self.skip_comment() {
                return;
            }
        }
    }

    /// A syntax error here.
    pub fn error(&self, message: impl Into<String>) -> Error {
        Error::Syntax(Problem::at(&self.position(), message))
    }

    /// The next character as a message names it.
    pub fn shown(&self) -> String {
        match self.peek() {
            None => "the end of the file".into(),
            Some('\n' | '\r') => "the end of the line".into(),
            Some(c) => format!("'{}'", c.escape_debug()),
        }
    }
}

pub(super) fn is_blank(c: char) -> bool {
    c == ' ' || c == '\t'
}

pub(super) fn is_newline(c: char) -> bool {
    c == '\n' || c == '\r'
}
