//! Subject transforms: rewriting a subject that matches a source filter into another (ADR-30).
//!
//! Owns the syntax of destinations, its validation with nats-server's errors, and the rewriting.
//! Never draws a random number: [`Transform::apply`] is given a source of them. Which of several weighted
//! destinations is used is the accounts' business, not decided here.

use crate::grammar::{is_subset, tokens};
use alloc::{boxed::Box, string::String, vec::Vec};
use core::fmt;

/// A compiled rule `source → destination`. Immutable; applying it allocates only for its result and a list
/// of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transform {
    source: Box<str>,
    destination: Box<str>,
    /// Where, in the source, a final `>` stands; the tokens from there on are appended at the end.
    tail: Option<usize>,
    pieces: Box<[Piece]>,
}

/// One token of a destination. `token` counts tokens of the source subject from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    Wildcard { token: usize },
    Partition { buckets: i32, tokens: Box<[usize]> },
    Random { ceiling: i32 },
    SplitFromLeft { token: usize, position: i32 },
    SplitFromRight { token: usize, position: i32 },
    SliceFromLeft { token: usize, size: i32 },
    SliceFromRight { token: usize, size: i32 },
    Left { token: usize, length: i32 },
    Right { token: usize, length: i32 },
    Split { token: usize, delimiter: Box<str> },
}

/// Why a rule is refused. The texts are nats-server's, so that they read the same in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransformError {
    /// Source or destination is no subject, the destination has a bare `*`, or only one of them ends in `>`.
    BadSubject,
    /// A mapping's destination is no subject; holds the offending token.
    InvalidDestination(String),
    /// A reversible rule leaves a source wildcard unused; holds the destination.
    NotUsingAllWildcards(String),
    /// `{{…}}` with a function nobody knows; holds the token.
    UnknownFunction(String),
    /// A function names a wildcard the source does not have; holds the token.
    IndexOutOfRange(String),
    /// Holds the token.
    NotEnoughArguments(String),
    /// Holds the token.
    InvalidArgument(String),
    /// Holds the token.
    TooManyArguments(String),
    /// Only `wildcard` can be reversed, as imports need; holds the token.
    NotSupportedForImport(String),
}

impl fmt::Display for TransformError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (reason, token) = match self {
            Self::BadSubject => return formatter.write_str("invalid subject"),
            Self::InvalidDestination(token) => ("invalid transform", token),
            Self::NotUsingAllWildcards(token) => ("not using all of the token wildcard(s)", token),
            Self::UnknownFunction(token) => ("unknown function", token),
            Self::IndexOutOfRange(token) => ("wildcard index out of range", token),
            Self::NotEnoughArguments(token) => ("not enough arguments passed to the function", token),
            Self::InvalidArgument(token) => ("function argument is invalid or in the wrong format", token),
            Self::TooManyArguments(token) => ("too many arguments passed to the function", token),
            Self::NotSupportedForImport(token) => {
                ("the only mapping function allowed for import transforms is {{Wildcard()}}", token)
            }
        };
        write!(formatter, "invalid mapping destination: {reason}")?;
        if token.is_empty() { Ok(()) } else { write!(formatter, " in {token}") }
    }
}

impl core::error::Error for TransformError {}

impl Transform {
    /// Compiles a rule. An empty `source` means `>`.
    ///
    /// # Errors
    /// See [`TransformError`]; an empty destination is a [`TransformError::BadSubject`].
    pub fn new(source: &str, destination: &str) -> Result<Transform, TransformError> {
        Self::compile(source, destination, false)
    }

    /// Compiles a rule that can be turned around (imports): only `wildcard` functions, every wildcard used.
    ///
    /// # Errors
    /// See [`TransformError`].
    pub fn new_reversible(source: &str, destination: &str) -> Result<Transform, TransformError> {
        Self::compile(source, destination, true)
    }

    /// Compiles one destination of an account's `mappings`: no white space, and errors in the order in which
    /// nats-server finds them.
    ///
    /// # Errors
    /// See [`TransformError`].
    pub fn new_mapping(source: &str, destination: &str) -> Result<Transform, TransformError> {
        let mut closed = false;
        for token in destination.split('.') {
            if token.is_empty() || closed {
                return Err(TransformError::InvalidDestination(token.into()));
            }
            if let Some(call) = Call::parse(token) {
                if call.function == Function::Unknown {
                    return Err(TransformError::UnknownFunction(token.into()));
                }
                continue;
            }
            closed = token == ">";
            if token.contains(WHITE) {
                return Err(TransformError::InvalidDestination(String::new()));
            }
        }
        Self::new(source, destination)
    }

    /// The source filter as written (`>` when none was).
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The destination as written.
    pub fn destination(&self) -> &str {
        &self.destination
    }

    /// Whether two applications to one subject may differ, so that a result must not be cached.
    pub fn is_random(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Random { .. }))
    }

    /// Whether `subject` is one this rule rewrites. Wildcards in `subject` must be covered by the source.
    pub fn matches(&self, subject: &[u8]) -> bool {
        is_subset(subject, self.source.as_bytes())
    }

    /// Appends the rewritten `subject` to `out`; returns false, appending nothing, when it does not match.
    /// `random` returns uniform 31-bit numbers and is called once for each `random` in the destination.
    pub fn apply(&self, subject: &[u8], random: &mut dyn FnMut() -> u32, out: &mut Vec<u8>) -> bool {
        if !self.matches(subject) {
            return false;
        }
        let parts: Vec<&[u8]> = tokens(subject).collect();
        for (index, piece) in self.pieces.iter().enumerate() {
            if index > 0 {
                out.push(b'.');
            }
            piece.write(&parts, subject, random, out);
        }
        if let Some(tail) = self.tail {
            for (index, part) in parts.iter().skip(tail).enumerate() {
                if index > 0 || !self.pieces.is_empty() {
                    out.push(b'.');
                }
                out.extend_from_slice(part);
            }
        }
        true
    }

    /// The rule from destination back to source, if this one is reversible.
    ///
    /// It is the true inverse. nats-server takes placeholders in order of appearance, which is the inverse of
    /// two swapped wildcards but not of three that rotate.
    pub fn reverse(&self) -> Option<Transform> {
        // Which wildcard of the source each placeholder of the destination stands for.
        let mut placeholders = Vec::new();
        for token in self.destination.split('.') {
            if let Ok(Parsed::Call(call)) = Call::parse_placeholder(token) {
                placeholders.push(call.wildcards.first().copied()?);
            }
        }
        let mut destination = String::new();
        let mut wildcard = 0;
        for (index, token) in self.source.split('.').enumerate() {
            if index > 0 {
                destination.push('.');
            }
            if token == "*" {
                wildcard += 1;
                let place = placeholders.iter().position(|number| *number == wildcard)?;
                destination.push_str(&alloc::format!("${}", place + 1));
            } else {
                destination.push_str(token);
            }
        }
        Self::compile(&untokenize(&self.destination), &destination, true).ok()
    }

    fn compile(source: &str, destination: &str, strict: bool) -> Result<Transform, TransformError> {
        let source = if source.is_empty() { ">" } else { source };
        let from = Shape::of(source).ok_or(TransformError::BadSubject)?;
        let to = Shape::of(destination).ok_or(TransformError::BadSubject)?;
        if !to.wildcards.is_empty() || from.tail.is_some() != to.tail.is_some() {
            return Err(TransformError::BadSubject);
        }
        let has_wildcards = !from.wildcards.is_empty() || from.tail.is_some();
        let mut placeholders = 0;
        let mut pieces = Vec::new();
        for token in destination.split('.').take(to.tail.unwrap_or(usize::MAX)) {
            let call = match Call::parse_placeholder(token)? {
                Parsed::Text => {
                    pieces.push(Piece::Text(token.into()));
                    continue;
                }
                Parsed::Call(call) => call,
            };
            if !has_wildcards {
                // No wildcard to refer to: only what needs none. Token arguments are dropped, as upstream.
                match call.function {
                    Function::Partition | Function::Random => pieces.push(call.piece(Box::new([]))),
                    _ => return Err(TransformError::IndexOutOfRange(token.into())),
                }
                continue;
            }
            if strict && call.function != Function::Wildcard {
                return Err(TransformError::NotSupportedForImport(token.into()));
            }
            placeholders += call.wildcards.len();
            let tokens = from.tokens_of(&call.wildcards, token)?;
            pieces.push(call.piece(tokens));
        }
        if strict && placeholders < from.wildcards.len() {
            return Err(TransformError::NotUsingAllWildcards(destination.into()));
        }
        Ok(Transform {
            source: source.into(),
            destination: destination.into(),
            tail: from.tail,
            pieces: pieces.into(),
        })
    }
}

/// Turns placeholders, `$1` or `{{wildcard(1)}}`, into `*`: the filter of what a destination produces.
pub fn untokenize(destination: &str) -> String {
    let mut source = String::new();
    for (index, token) in destination.split('.').enumerate() {
        if index > 0 {
            source.push('.');
        }
        let placeholder = matches!(
            Call::parse_placeholder(token),
            Ok(Parsed::Call(Call { function: Function::Wildcard, .. }))
        );
        source.push_str(if placeholder { "*" } else { token });
    }
    source
}

/// Where the wildcards of a subject are. White space is not looked at, as upstream.
struct Shape {
    wildcards: Vec<usize>,
    tail: Option<usize>,
}

impl Shape {
    fn of(subject: &str) -> Option<Shape> {
        let mut shape = Shape { wildcards: Vec::new(), tail: None };
        for (index, token) in subject.split('.').enumerate() {
            if token.is_empty() || shape.tail.is_some() {
                return None;
            }
            match token {
                ">" => shape.tail = Some(index),
                "*" => shape.wildcards.push(index),
                _ => {}
            }
        }
        Some(shape)
    }

    /// Source tokens of wildcards counted from 1. Numbers below 1 mean the first token: nobody relies on
    /// it, but nats-server accepts such rules, and so must we.
    fn tokens_of(&self, wildcards: &[i64], token: &str) -> Result<Box<[usize]>, TransformError> {
        wildcards
            .iter()
            .map(|number| match usize::try_from(*number).ok().and_then(|number| number.checked_sub(1)) {
                None => Ok(0),
                Some(index) => self
                    .wildcards
                    .get(index)
                    .copied()
                    .ok_or_else(|| TransformError::IndexOutOfRange(alloc::format!("{token}: [{number}]"))),
            })
            .collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Wildcard,
    Partition,
    SplitFromLeft,
    SplitFromRight,
    SliceFromLeft,
    SliceFromRight,
    Left,
    Right,
    Split,
    Random,
    Unknown,
}

/// White space by nats-server's rules, for subjects and around function names.
const WHITE: [char; 5] = ['\t', '\n', '\x0c', '\r', ' '];

impl Function {
    /// Each word of a name may begin with a capital or not; nothing else may vary.
    fn of(name: &str) -> Function {
        match name {
            "wildcard" | "Wildcard" => Function::Wildcard,
            "partition" | "Partition" => Function::Partition,
            "left" | "Left" => Function::Left,
            "right" | "Right" => Function::Right,
            "split" | "Split" => Function::Split,
            "random" | "Random" => Function::Random,
            _ => Function::of_two_sides(name).unwrap_or(Function::Unknown),
        }
    }

    fn of_two_sides(name: &str) -> Option<Function> {
        let (verb, rest) = name.split_at_checked(5)?;
        let side = rest.strip_prefix("from").or_else(|| rest.strip_prefix("From"))?;
        Some(match (verb, side) {
            ("split" | "Split", "left" | "Left") => Function::SplitFromLeft,
            ("split" | "Split", "right" | "Right") => Function::SplitFromRight,
            ("slice" | "Slice", "left" | "Left") => Function::SliceFromLeft,
            ("slice" | "Slice", "right" | "Right") => Function::SliceFromRight,
            _ => return None,
        })
    }
}

/// A function call in a destination, arguments read.
struct Call<'a> {
    function: Function,
    arguments: &'a str,
    /// Wildcards of the source it reads, counted from 1.
    wildcards: Vec<i64>,
    number: i32,
    delimiter: &'a str,
}

enum Parsed<'a> {
    Text,
    Call(Call<'a>),
}

impl<'a> Call<'a> {
    /// Splits `{{name(arguments)}}`; `None` for anything not in double braces.
    fn parse(token: &'a str) -> Option<Call<'a>> {
        let inner = token.strip_prefix("{{")?.strip_suffix("}}")?;
        if inner.is_empty() {
            return None; // nats-server asks for more than four characters
        }
        let inner = inner.trim_matches(WHITE);
        let call = inner.strip_suffix(')').and_then(|call| call.split_once('('));
        let (function, arguments) = match call {
            Some((name, arguments)) => (Function::of(name.trim_end_matches(WHITE)), arguments),
            None => (Function::Unknown, ""),
        };
        Some(Call { function, arguments, wildcards: Vec::new(), number: -1, delimiter: "" })
    }

    /// Reads a destination token: text, `$n` or a function with its arguments.
    fn parse_placeholder(token: &'a str) -> Result<Parsed<'a>, TransformError> {
        if let Some(number) = token.strip_prefix('$') {
            // Much else starts with a dollar sign, so what is no number is text.
            return Ok(match number.parse::<i64>() {
                Ok(number) => Parsed::Call(Call {
                    function: Function::Wildcard,
                    arguments: "",
                    wildcards: alloc::vec![number],
                    number: -1,
                    delimiter: "",
                }),
                Err(_) => Parsed::Text,
            });
        }
        match Call::parse(token) {
            Some(mut call) => {
                call.read_arguments(token)?;
                Ok(Parsed::Call(call))
            }
            None => Ok(Parsed::Text),
        }
    }

    fn read_arguments(&mut self, token: &str) -> Result<(), TransformError> {
        let invalid = || TransformError::InvalidArgument(token.into());
        let few = || TransformError::NotEnoughArguments(token.into());
        let many = || TransformError::TooManyArguments(token.into());
        let integer = |text: &str| text.trim_matches(' ').parse::<i64>().map_err(|_| invalid());
        // Upstream checks the upper bound only and lets the lower one wrap.
        let count = |text: &str| {
            integer(text).and_then(|n| if n > i64::from(i32::MAX) { Err(invalid()) } else { Ok(n as i32) })
        };
        let mut parts = self.arguments.split(',');
        let first = parts.next().unwrap_or_default();
        let rest: Vec<&'a str> = parts.map(|part| part.trim_start_matches(WHITE)).collect();
        match self.function {
            Function::Wildcard if !rest.is_empty() => return Err(many()),
            Function::Wildcard if first.is_empty() => return Err(few()),
            Function::Wildcard => self.wildcards.push(integer(first)?),
            Function::Partition => {
                self.number = count(first)?;
                for part in &rest {
                    self.wildcards.push(integer(part)?);
                }
            }
            Function::Random if !rest.is_empty() => return Err(few()),
            Function::Random => self.number = count(first)?,
            Function::Unknown => return Err(TransformError::UnknownFunction(token.into())),
            _ => {
                let second = match rest.as_slice() {
                    [] => return Err(few()),
                    [second] => *second,
                    _ => return Err(many()),
                };
                self.wildcards.push(integer(first)?);
                if self.function == Function::Split {
                    if second.contains([' ', '.']) {
                        return Err(invalid());
                    }
                    self.delimiter = second;
                } else {
                    self.number = second.trim_matches(' ').parse().map_err(|_| invalid())?;
                }
            }
        }
        Ok(())
    }

    fn piece(&self, tokens: Box<[usize]>) -> Piece {
        let token = tokens.first().copied().unwrap_or(0);
        let number = self.number;
        match self.function {
            Function::Wildcard => Piece::Wildcard { token },
            Function::Partition => Piece::Partition { buckets: number, tokens },
            Function::Random => Piece::Random { ceiling: number },
            Function::SplitFromLeft => Piece::SplitFromLeft { token, position: number },
            Function::SplitFromRight => Piece::SplitFromRight { token, position: number },
            Function::SliceFromLeft => Piece::SliceFromLeft { token, size: number },
            Function::SliceFromRight => Piece::SliceFromRight { token, size: number },
            Function::Left => Piece::Left { token, length: number },
            Function::Right => Piece::Right { token, length: number },
            Function::Split => Piece::Split { token, delimiter: self.delimiter.into() },
            Function::Unknown => unreachable!("refused when its arguments were read"),
        }
    }
}

impl Piece {
    fn write(&self, parts: &[&[u8]], subject: &[u8], random: &mut dyn FnMut() -> u32, out: &mut Vec<u8>) {
        let part = |token: &usize| parts.get(*token).copied().unwrap_or_default();
        match self {
            Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
            Piece::Wildcard { token } => out.extend_from_slice(part(token)),
            Piece::Partition { buckets, tokens } => {
                let hash = if tokens.is_empty() {
                    fnv1a(FNV_START, subject)
                } else {
                    tokens.iter().fold(FNV_START, |hash, token| fnv1a(hash, part(token)))
                };
                // A negative number of buckets wraps, as upstream; zero means one.
                write_number(hash.checked_rem(*buckets as u32).unwrap_or(0), out);
            }
            Piece::Random { ceiling } => {
                let drawn = i64::from(random() & 0x7FFF_FFFF);
                write_number(drawn.checked_rem(i64::from(*ceiling)).unwrap_or(0) as u32, out);
            }
            Piece::SplitFromLeft { token, position } => {
                let part = part(token);
                write_split(part, inner(*position, part), out);
            }
            Piece::SplitFromRight { token, position } => {
                let part = part(token);
                write_split(part, inner(*position, part).map(|position| part.len() - position), out);
            }
            Piece::SliceFromLeft { token, size } => {
                let part = part(token);
                write_joined(part.chunks(inner(*size, part).unwrap_or(part.len().max(1))), out);
            }
            Piece::SliceFromRight { token, size } => {
                let part = part(token);
                let size = inner(*size, part).unwrap_or(part.len().max(1));
                let (head, rest) = part.split_at(part.len() % size);
                let head = (!head.is_empty()).then_some(head);
                write_joined(head.into_iter().chain(rest.chunks(size)), out);
            }
            Piece::Left { token, length } => {
                let part = part(token);
                out.extend_from_slice(&part[..inner(*length, part).unwrap_or(part.len())]);
            }
            Piece::Right { token, length } => {
                let part = part(token);
                out.extend_from_slice(&part[part.len() - inner(*length, part).unwrap_or(part.len())..]);
            }
            Piece::Split { token, delimiter } => write_fields(part(token), delimiter, out),
        }
    }
}

/// `number` as a position strictly inside `part`; elsewhere the functions leave a token whole.
fn inner(number: i32, part: &[u8]) -> Option<usize> {
    usize::try_from(number).ok().filter(|number| *number > 0 && *number < part.len())
}

fn write_split(part: &[u8], position: Option<usize>, out: &mut Vec<u8>) {
    let (left, right) = part.split_at(position.unwrap_or(part.len()));
    out.extend_from_slice(left);
    if position.is_some() {
        out.push(b'.');
        out.extend_from_slice(right);
    }
}

fn write_joined<'a>(parts: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
    for (index, part) in parts.enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        out.extend_from_slice(part);
    }
}

/// The fields of `part` between delimiters as tokens. The rule for empty fields is upstream's: a dot stands
/// before every non-empty field but the first two when the first is empty.
fn write_fields(part: &[u8], delimiter: &str, out: &mut Vec<u8>) {
    let fields = split(part, delimiter.as_bytes());
    for (index, field) in fields.iter().enumerate() {
        out.extend_from_slice(field);
        let next_is_text = fields.get(index + 1).is_some_and(|next| !next.is_empty());
        if next_is_text && !(index == 0 && field.is_empty()) {
            out.push(b'.');
        }
    }
}

fn split<'a>(part: &'a [u8], delimiter: &[u8]) -> Vec<&'a [u8]> {
    let mut fields = Vec::new();
    let mut rest = part;
    if delimiter.is_empty() {
        // One field a character, where bytes that are not UTF-8 count one each.
        for chunk in part.utf8_chunks() {
            for character in chunk.valid().chars() {
                let (field, after) = rest.split_at(character.len_utf8());
                fields.push(field);
                rest = after;
            }
            for _ in chunk.invalid() {
                let (field, after) = rest.split_at(1);
                fields.push(field);
                rest = after;
            }
        }
        return fields;
    }
    while let Some(at) = rest.windows(delimiter.len()).position(|window| window == delimiter) {
        fields.push(&rest[..at]);
        rest = &rest[at + delimiter.len()..];
    }
    fields.push(rest);
    fields
}

const FNV_START: u32 = 0x811C_9DC5;

/// FNV-1a, 32 bits: what decides a partition in every NATS server, so never to be changed.
fn fnv1a(hash: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

fn write_number(number: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(alloc::format!("{number}").as_bytes());
}

/// Turns the wildcards of a filter into placeholders in order: `foo.*.*` becomes `foo.$1.$2`.
pub fn tokenize(filter: &str) -> String {
    let mut count = 0;
    let mut destination = String::new();
    for (index, token) in filter.split('.').enumerate() {
        if index > 0 {
            destination.push('.');
        }
        if token == "*" {
            count += 1;
            destination.push_str(&alloc::format!("${count}"));
        } else {
            destination.push_str(token);
        }
    }
    destination
}
