//! The grammar of subjects and the relations between two of them.
//!
//! Owns predicates over one or two subjects, by bytes and without memory of their own.
//! Never keeps a set of filters: that is [`crate::Trie`].

/// Whether `subject` may be used as a filter (SUB) : no empty token, `>` only as the last token, no
/// ASCII white space. Tokens such as `a*` are literal text and allowed, as in nats-server.
pub fn is_valid(subject: &[u8]) -> bool {
    let mut closed = false;
    for token in tokens(subject) {
        if token.is_empty() || closed || token.iter().any(|byte| is_white(*byte)) {
            return false;
        }
        closed = token == b">";
    }
    true
}

/// Whether `subject` holds no wildcard token. Says nothing about validity.
pub fn is_literal(subject: &[u8]) -> bool {
    // Most subjects hold neither byte at all, and one pass over the bytes is cheaper than tokens.
    !subject.iter().any(|byte| matches!(byte, b'*' | b'>'))
        || !tokens(subject).any(|token| matches!(token, b"*" | b">"))
}

/// Whether one may publish to `subject`: valid and literal. nats-server asks this of PUB in pedantic
/// mode only.
pub fn is_valid_publish(subject: &[u8]) -> bool {
    is_valid(subject) && is_literal(subject)
}

/// The stricter rule for subjects kept in configuration: valid, UTF-8, no NUL and no U+FFFD (which
/// stands for bytes that were not UTF-8 when someone decoded them).
pub fn is_valid_text(subject: &[u8]) -> bool {
    match core::str::from_utf8(subject) {
        Ok(text) => is_valid(subject) && !text.contains(['\0', '\u{FFFD}']),
        Err(_) => false,
    }
}

/// Whether `filter` matches the literal subject `literal`.
///
/// A literal with an empty token is matched by nothing, as in nats-server's subscription index.
/// Wildcard characters in `literal` have no meaning of their own: `foo.*` matches the literal `foo.>`.
pub fn matches(filter: &[u8], literal: &[u8]) -> bool {
    if has_empty_token(literal) {
        return false;
    }
    let mut rest = tokens(literal);
    for token in tokens(filter) {
        let Some(other) = rest.next() else { return false };
        match token {
            b">" => return true,
            b"*" => {}
            _ if token == other => {}
            _ => return false,
        }
    }
    rest.next().is_none()
}

/// Whether every subject that `subset` matches is matched by `superset` too. Both may hold wildcards.
pub fn is_subset(subset: &[u8], superset: &[u8]) -> bool {
    let mut inner = tokens(subset);
    for outer in tokens(superset) {
        let Some(token) = inner.next() else { return false };
        if outer.is_empty() {
            return false;
        }
        if outer == b">" {
            return true;
        }
        if token.is_empty() || token == b">" || (outer != b"*" && token != outer) {
            return false;
        }
    }
    inner.next().is_none()
}

/// Whether some literal subject is matched by both. Both may hold wildcards.
pub fn collide(a: &[u8], b: &[u8]) -> bool {
    if a == b {
        return true;
    }
    let (mut left, mut right) = (tokens(a), tokens(b));
    loop {
        match (left.next(), right.next()) {
            (None, None) => return true,
            (None, Some(_)) | (Some(_), None) => return false,
            (Some(x), Some(y)) if x.is_empty() || y.is_empty() => return false,
            (Some(b">"), Some(_)) | (Some(_), Some(b">")) => return true,
            (Some(b"*"), Some(_)) | (Some(_), Some(b"*")) => {}
            (Some(x), Some(y)) if x == y => {}
            _ => return false,
        }
    }
}

/// The tokens of `subject`, in order. An empty subject has one empty token.
pub fn tokens(subject: &[u8]) -> Tokens<'_> {
    Tokens { rest: Some(subject) }
}

/// Iterator over the tokens of a subject; see [`tokens`].
#[derive(Clone, Debug)]
pub struct Tokens<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Tokens<'a> {
    /// What has not been returned yet, separators included; `None` at the end.
    pub fn rest(&self) -> Option<&'a [u8]> {
        self.rest
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        match rest.iter().position(|byte| *byte == b'.') {
            Some(end) => {
                self.rest = Some(&rest[end + 1..]);
                Some(&rest[..end])
            }
            None => {
                self.rest = None;
                Some(rest)
            }
        }
    }
}

/// Whether a token of `subject` is empty: leading, trailing or doubled separators, or no text at all.
pub(crate) fn has_empty_token(subject: &[u8]) -> bool {
    let mut before = b'.';
    for byte in subject {
        if *byte == b'.' && before == b'.' {
            return true;
        }
        before = *byte;
    }
    before == b'.'
}

/// The white space nats-server refuses in a subject.
fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b'\x0c')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_follow_the_grammar() {
        for good in
            ["foo", "foo.bar", "*", ">", "foo.*", "*.foo", "foo.>", "foo.b*r", "foo.>x", "a.b.c.d", "ü.✓"]
        {
            assert!(is_valid(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ".",
            "foo.",
            ".foo",
            "foo..bar",
            "foo.>.bar",
            ">.>",
            "foo bar",
            "a.\t",
            "a.b\r",
            "a\x0cb",
            " ",
        ] {
            assert!(!is_valid(bad.as_bytes()), "{bad:?}");
        }
        assert!(is_valid_text("a.b".as_bytes()));
        for bad in [&b"a\0b"[..], b"a.\xff", "a.\u{FFFD}".as_bytes(), b""] {
            assert!(!is_valid_text(bad), "{bad:?}");
        }
    }

    #[test]
    fn publishing_needs_a_literal() {
        assert!(is_valid_publish(b"foo.bar"));
        assert!(is_valid_publish(b"foo.b*r"));
        assert!(is_valid_publish(b">foo.*x"));
        assert!(!is_valid_publish(b"foo.*"));
        assert!(!is_valid_publish(b">"));
        assert!(!is_valid_publish(b"foo..bar"));
    }

    #[test]
    fn wildcards_match_whole_tokens() {
        for (filter, subject, expected) in [
            ("foo", "foo", true),
            ("foo", "foo.bar", false),
            ("foo.*", "foo.bar", true),
            ("foo.*", "foo", false),
            ("foo.*", "foo.bar.baz", false),
            ("foo.>", "foo.bar.baz", true),
            ("foo.>", "foo", false),
            (">", "foo", true),
            ("*.*", "a.b", true),
            ("*.b.*", "a.b.c", true),
            ("*.b.*", "a.c.c", false),
            ("foo.*", "foo.", false),
            (">", "foo..bar", false),
            ("f*", "foo", false),
            ("f*", "f*", true),
        ] {
            assert_eq!(matches(filter.as_bytes(), subject.as_bytes()), expected, "{filter} {subject}");
        }
    }

    #[test]
    fn subset_and_collision() {
        for (a, b, subset, collides) in [
            ("foo.*", "foo.*", true, true),
            ("foo.*", ">", true, true),
            ("foo.*", "*.*", true, true),
            ("foo.*", "foo.bar", false, true),
            ("foo.>", "foo.*", false, true),
            ("foo.>", "foo.>", true, true),
            ("foo.bar", "foo.*", true, true),
            ("foo", "foo.>", false, false),
            ("foo.*", "foo.bar.>", false, false),
            ("foo.*.bar", "foo.baz.*", false, true),
            ("foo.*.bar", "foo.baz.x", false, false),
            ("*.*", "foo.>", false, true),
            ("a.b", "a.c", false, false),
            ("a.>", "*", false, false),
        ] {
            assert_eq!(is_subset(a.as_bytes(), b.as_bytes()), subset, "subset {a} {b}");
            assert_eq!(collide(a.as_bytes(), b.as_bytes()), collides, "collide {a} {b}");
            assert_eq!(collide(b.as_bytes(), a.as_bytes()), collides, "collide {b} {a}");
        }
    }

    #[test]
    fn tokens_are_split_at_dots() {
        assert_eq!(tokens(b"a.bc.").collect::<alloc::vec::Vec<_>>(), [&b"a"[..], b"bc", b""]);
        assert_eq!(tokens(b"").count(), 1);
    }
}
