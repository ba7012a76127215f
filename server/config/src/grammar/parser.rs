//! From text to tree: keys, blocks, arrays, includes and variables. Scalars are read in `scalar`.

use std::sync::Arc;

use super::cursor::{Cursor, is_newline};
use super::value::{Map, Node, Value};
use super::{
    Config, DEPTH_MAX, Environment, FILE_BYTES_MAX, Loader, VALUES_MAX, VARIABLE_BYTES_MAX, include_path,
    scalar,
};
use crate::error::{Error, Position, Problem};

/// The key that an environment variable's text is read under.
const ENVIRONMENT_KEY: &str = "value";

/// What all texts of one configuration share.
struct Shared<'a> {
    loader: &'a dyn Loader,
    environment: &'a dyn Environment,
    warnings: Vec<Problem>,
    values: usize,
    variable_bytes: usize,
    /// Files being read, outermost first.
    files: Vec<String>,
    /// Environment variables being read, outermost first.
    variables: Vec<String>,
}

pub(super) fn parse(
    name: &str,
    text: &[u8],
    loader: &dyn Loader,
    environment: &dyn Environment,
) -> Result<Config, Error> {
    let mut shared = Shared {
        loader,
        environment,
        warnings: Vec::new(),
        values: 0,
        variable_bytes: 0,
        files: vec![name.to_string()],
        variables: Vec::new(),
    };
    let root = parse_text(name, text, &mut shared, 0)?;
    Ok(Config { root, warnings: shared.warnings })
}

fn parse_text(name: &str, text: &[u8], shared: &mut Shared<'_>, depth: usize) -> Result<Map, Error> {
    let file: Arc<str> = Arc::from(name);
    let start = Position { file: Arc::clone(&file), line: 1, column: 1 };
    if text.len() > FILE_BYTES_MAX {
        let message = format!("the file is larger than {FILE_BYTES_MAX} bytes; split it or shorten it");
        return Err(Error::Syntax(Problem::at(&start, message)));
    }
    let decoded = String::from_utf8_lossy(text);
    if matches!(decoded, std::borrow::Cow::Owned(_)) {
        let message = "the file is not UTF-8: other bytes were read as U+FFFD; save it as UTF-8";
        shared.warnings.push(Problem::at(&start, message));
    }
    let decoded = decoded.strip_prefix('\u{feff}').unwrap_or(&decoded);
    let mut parser =
        Parser { cursor: Cursor::new(decoded, file), shared, scopes: vec![Map::default()], depth };
    parser.top_level()?;
    Ok(parser.scopes.pop().unwrap_or_default())
}

struct Parser<'a, 'b> {
    cursor: Cursor<'a>,
    shared: &'a mut Shared<'b>,
    /// The maps being read, outermost first: where a variable is looked for, innermost first.
    scopes: Vec<Map>,
    depth: usize,
}

/// What ends an entry, which differs between the top level, a `{ }` around it, and a block.
#[derive(Clone, Copy, PartialEq)]
enum Level {
    Top,
    /// Inside braces around the whole text, as JSON has them.
    Braced,
    Block,
}

impl Parser<'_, '_> {
    fn top_level(&mut self) -> Result<(), Error> {
        loop {
            self.cursor.skip_space_and_comments();
            match self.cursor.peek() {
                None => return Ok(()),
                Some('{') => {
                    let open = self.cursor.position();
                    self.cursor.next();
                    self.deeper()?;
                    self.braced(&open)?;
                    self.depth -= 1;
                }
                // One brace too many at the very end is forgiven, as nats-server does.
                Some('}') if self.cursor.rest()[1..].trim().is_empty() => {
                    self.cursor.next();
                }
                Some(_) => {
                    self.entry(Level::Top)?;
                    self.entry_end(Level::Top)?;
                }
            }
        }
    }

    /// The inside of `{ }` around a whole text: its keys are those of the top level.
    fn braced(&mut self, open: &Position) -> Result<(), Error> {
        loop {
            self.skip_separators();
            match self.cursor.peek() {
                None => return Err(self.unclosed("'{'", '}', open)),
                Some('}') => {
                    self.cursor.next();
                    return Ok(());
                }
                Some('{') => {
                    let open = self.cursor.position();
                    self.cursor.next();
                    self.deeper()?;
                    self.braced(&open)?;
                    self.depth -= 1;
                }
                Some(_) => {
                    self.entry(Level::Braced)?;
                    self.entry_end(Level::Braced)?;
                }
            }
        }
    }

    /// A block, its opening brace already taken.
    fn block(&mut self, open: &Position) -> Result<Map, Error> {
        self.scopes.push(Map::default());
        loop {
            self.cursor.skip_space_and_comments();
            match self.cursor.peek() {
                None => return Err(self.unclosed("'{'", '}', open)),
                Some('}') => {
                    self.cursor.next();
                    return Ok(self.scopes.pop().unwrap_or_default());
                }
                Some(']') => return Err(self.cursor.error("expected a key or '}', found ']'")),
                Some(_) => {
                    self.entry(Level::Block)?;
                    self.entry_end(Level::Block)?;
                }
            }
        }
    }

    fn skip_separators(&mut self) {
        loop {
            self.cursor.skip_space_and_comments();
            if !self.cursor.take(',') && !self.cursor.take(';') {
                return;
            }
        }
    }

    /// A key with its value, or an include.
    fn entry(&mut self, level: Level) -> Result<(), Error> {
        let position = self.cursor.position();
        match self.cursor.peek() {
            Some('=' | ':') => {
                let found = self.cursor.shown();
                return Err(self.cursor.error(format!("expected a key, found the separator {found}")));
            }
            // Within a block nats-server drops it, and takes the rest for the key.
            Some('/') => {
                let message =
                    "expected a key, found '/'; a comment starts with '//' or '#', and quotes keep a '/'";
                return Err(self.cursor.error(message));
            }
            _ => {}
        }
        let (key, quoted) = self.key()?;
        let spaced = self.cursor.peek().is_some_and(char::is_whitespace);
        if !quoted && spaced && key.eq_ignore_ascii_case("include") {
            return self.include(&position);
        }
        self.cursor.take_while(char::is_whitespace);
        let separated = self.cursor.take('=') || self.cursor.take(':');
        if separated && level == Level::Block {
            self.cursor.take_while(char::is_whitespace);
        } else {
            self.cursor.skip_blanks();
        }
        match self.cursor.peek() {
            None if !separated => {
                let message = format!("the key \"{key}\" has no value: add one or remove the key");
                return Err(Error::Syntax(Problem::at(&position, message)));
            }
            Some('}' | ',') if level == Level::Block => {
                let message = format!("the key \"{key}\" has no value: add one or remove the key");
                return Err(Error::Syntax(Problem::at(&position, message)));
            }
            Some(c) if is_newline(c) => {
                let message = format!("expected a value for \"{key}\" on this line, found its end");
                return Err(self.cursor.error(message));
            }
            _ => {}
        }
        let value = self.value()?;
        self.insert(key, Node { value, position, is_variable: false });
        Ok(())
    }

    fn insert(&mut self, key: String, node: Node) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(key, node);
        }
    }

    /// A key up to white space or a separator, or whatever its quotes hold; and whether it was quoted.
    fn key(&mut self) -> Result<(String, bool), Error> {
        let open = self.cursor.position();
        match self.cursor.peek() {
            Some(quote @ ('"' | '\'')) => {
                self.cursor.next();
                let key = self.cursor.take_while(|c| c != quote).to_string();
                if !self.cursor.take(quote) {
                    return Err(self.unclosed("a quoted key", quote, &open));
                }
                Ok((key, true))
            }
            _ => {
                let start = self.cursor.offset();
                self.cursor.next();
                self.cursor.take_while(|c| !c.is_whitespace() && c != '=' && c != ':');
                Ok((self.cursor.since(start).to_string(), false))
            }
        }
    }

    fn entry_end(&mut self, level: Level) -> Result<(), Error> {
        self.cursor.skip_blanks();
        match self.cursor.peek() {
            None if level == Level::Top => Ok(()),
            // Unclosed: the block says so with the place where it was opened.
            None => Ok(()),
            Some('#') => Ok(()),
            Some('/') if self.cursor.peek_second() == Some('/') => Ok(()),
            Some(c) if is_newline(c) => Ok(()),
            Some(';' | ',') => {
                self.cursor.next();
                Ok(())
            }
            Some('}') if level == Level::Top => {
                self.cursor.next();
                Ok(())
            }
            Some('}') => Ok(()),
            Some(_) => {
                let found = self.cursor.shown();
                Err(self.cursor.error(format!(
                    "expected the value to end with a new line, ',', ';' or a comment, found {found}; \
                     quote the value if this belongs to it"
                )))
            }
        }
    }

    fn value(&mut self) -> Result<Value, Error> {
        self.shared.values += 1;
        if self.shared.values > VALUES_MAX {
            return Err(self.cursor.error(format!("the configuration has more than {VALUES_MAX} values")));
        }
        let open = self.cursor.position();
        match self.cursor.peek() {
            Some('[') => {
                self.cursor.next();
                self.deeper()?;
                let array = self.array(&open)?;
                self.depth -= 1;
                Ok(Value::Array(array))
            }
            Some('{') => {
                self.cursor.next();
                self.deeper()?;
                let map = self.block(&open)?;
                self.depth -= 1;
                Ok(Value::Map(map))
            }
            _ => match scalar::scalar(&mut self.cursor)? {
                scalar::Scalar::Value(value) => Ok(value),
                scalar::Scalar::Variable(name) => self.variable(&name, &open),
            },
        }
    }

    fn array(&mut self, open: &Position) -> Result<Vec<Node>, Error> {
        let mut elements = Vec::new();
        loop {
            self.cursor.skip_space_and_comments();
            match self.cursor.peek() {
                None => return Err(self.unclosed("'['", ']', open)),
                Some(']') => {
                    self.cursor.next();
                    return Ok(elements);
                }
                Some(',' | '/') => {
                    let found = self.cursor.shown();
                    return Err(self
                        .cursor
                        .error(format!("expected an array's value or ']', found {found}")));
                }
                Some(_) => {}
            }
            let position = self.cursor.position();
            let value = self.value()?;
            elements.push(Node { value, position, is_variable: false });
            self.cursor.skip_blanks();
            self.cursor.skip_comment();
            match self.cursor.peek() {
                Some(',') => {
                    self.cursor.next();
                }
                Some(']') => {}
                Some(c) if is_newline(c) => {}
                None => return Err(self.unclosed("'['", ']', open)),
                Some(_) => {
                    let found = self.cursor.shown();
                    return Err(self.cursor.error(format!("expected ',' or ']' in an array, found {found}")));
                }
            }
        }
    }

    fn include(&mut self, position: &Position) -> Result<(), Error> {
        self.cursor.skip_blanks();
        let written = match self.cursor.peek() {
            Some(quote @ ('"' | '\'')) => {
                let open = self.cursor.position();
                self.cursor.next();
                let written = self.cursor.take_while(|c| c != quote).to_string();
                if !self.cursor.take(quote) {
                    return Err(self.unclosed("a quoted include", quote, &open));
                }
                written
            }
            Some('[' | '{' | '(' | '-' | '\\') | None => return Err(self.no_include()),
            Some(c) if is_newline(c) || c.is_ascii_digit() => return Err(self.no_include()),
            Some(_) => {
                let ends = |c: char| c.is_whitespace() || matches!(c, ';' | '}' | '\'');
                let written = self.cursor.take_while(|c| !ends(c)).to_string();
                self.cursor.take('\'');
                written
            }
        };
        let path = include_path(self.cursor.file(), &written);
        let name = path.to_string_lossy().to_string();
        if self.shared.files.contains(&name) {
            let message = format!(
                "include file '{written}' includes itself: {} -> {name}",
                self.shared.files.join(" -> ")
            );
            return Err(Error::Syntax(Problem::at(position, message)));
        }
        let text = self.shared.loader.load(&path).map_err(|reason| {
            let message = format!(
                "error parsing include file '{written}': {reason}; the path is relative to the including \
                 file's directory and was taken as '{name}'"
            );
            Error::Syntax(Problem::at(position, message))
        })?;
        self.deeper()?;
        self.shared.files.push(name.clone());
        let included = parse_text(&name, &text, self.shared, self.depth)?;
        self.shared.files.pop();
        self.depth -= 1;
        for entry in included.into_entries() {
            self.insert(entry.key, entry.node);
        }
        Ok(())
    }

    fn no_include(&self) -> Error {
        let found = self.cursor.shown();
        self.cursor.error(format!("expected a file's path after include, found {found}; quote the path"))
    }

    /// What `$name` stands for: a key read earlier in this block or one around it, then the environment.
    fn variable(&mut self, name: &str, position: &Position) -> Result<Value, Error> {
        // bcrypt hashes need no quotes.
        if name.starts_with("2a$") {
            return Ok(Value::String(format!("${name}")));
        }
        for scope in self.scopes.iter_mut().rev() {
            if let Some(node) = scope.find_mut(name) {
                node.is_variable = true;
                let (values, bytes) = weight(&node.value);
                self.shared.values += values;
                self.shared.variable_bytes += bytes;
                if self.shared.values > VALUES_MAX || self.shared.variable_bytes > VARIABLE_BYTES_MAX {
                    let message = format!("replacing ${name} makes the configuration too large");
                    return Err(Error::Syntax(Problem::at(position, message)));
                }
                return Ok(node.value.clone());
            }
        }
        let line = position.line;
        let Some(text) = self.shared.environment.variable(name) else {
            let message = format!(
                "variable reference for '{name}' on line {line} can not be found: define it above or in the \
                 environment"
            );
            return Err(Error::Syntax(Problem::at(position, message)));
        };
        let failed = |reason: String| {
            let message =
                format!("variable reference for '{name}' on line {line} could not be parsed: {reason}");
            Error::Syntax(Problem::at(position, message))
        };
        if self.shared.variables.iter().any(|v| v == name) {
            return Err(failed(format!("variable reference cycle for '{name}'")));
        }
        self.deeper()?;
        self.shared.variables.push(name.to_string());
        let text = format!("{ENVIRONMENT_KEY}={text}");
        let read = parse_text(&format!("${name}"), text.as_bytes(), self.shared, self.depth);
        self.shared.variables.pop();
        self.depth -= 1;
        let read = read.map_err(|error| failed(error.to_string()))?;
        match read.find(ENVIRONMENT_KEY) {
            Some(node) => Ok(node.value.clone()),
            None => Err(failed("it holds no value".into())),
        }
    }

    fn deeper(&mut self) -> Result<(), Error> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.cursor.error(format!("nested deeper than {DEPTH_MAX} levels")));
        }
        Ok(())
    }

    fn unclosed(&self, what: &str, close: char, open: &Position) -> Error {
        Error::Syntax(Problem::at(open, format!("{what} opened here is never closed: add '{close}'")))
    }
}

/// How many values and about how many bytes a value holds.
fn weight(value: &Value) -> (usize, usize) {
    let sum = |(v, b): (usize, usize), (w, c): (usize, usize)| (v + w, b + c);
    match value {
        Value::String(text) | Value::Date(text) => (1, text.len()),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => (1, 0),
        Value::Array(nodes) => nodes.iter().map(|n| weight(&n.value)).fold((1, 0), sum),
        Value::Map(map) => {
            map.iter().map(|entry| sum(weight(&entry.node.value), (0, 2 * entry.key.len()))).fold((1, 0), sum)
        }
    }
}
