//! What a user may publish and subscribe to.
//!
//! Owns the compiled lists and the three questions asked of them: PUB, SUB and delivery. Never keeps the
//! replies a user was lent (that is [`crate::Replies`], one for each connection) and never decides who the
//! user is.

use crate::Error;
use subject::{Trie, collide, is_literal, is_subset, is_valid};

/// Permissions as configuration or a JWT writes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PermissionsSource {
    /// Subjects of PUB.
    pub publish: Option<SubjectsSource>,
    /// Subjects of SUB, each optionally followed by a space and a queue name, which may hold wildcards.
    pub subscribe: Option<SubjectsSource>,
    /// `allow_responses`: publishing to reply subjects of received messages.
    pub responses: Option<ResponsesSource>,
}

/// One pair of lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectsSource {
    /// `None` allows everything; for PUB an empty list allows nothing, for SUB everything, as nats-server.
    pub allow: Option<Vec<String>>,
    /// Taken from what is allowed.
    pub deny: Vec<String>,
}

/// How far `allow_responses` goes. Zero means the default, negative numbers no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponsesSource {
    /// Replies to one message; default 1.
    pub messages_max: i64,
    /// How long after the message; default two minutes.
    pub expires_nanos: i64,
}

/// The compiled form of [`ResponsesSource`]; `None` is no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Responses {
    /// Replies to one message.
    pub messages_max: Option<u64>,
    /// How long after the message.
    pub expires_nanos: Option<u64>,
}

const RESPONSES_MAX: u64 = 1;
const RESPONSES_EXPIRE_NANOS: u64 = 120_000_000_000;

/// The answer to a SUB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscribe {
    /// Nothing it can match is denied.
    Allowed,
    /// Refuse it.
    Denied,
    /// Accept it, and ask [`Permissions::can_deliver`] for each message: something it matches is denied.
    AllowedWithDenyFilter,
}

/// Compiled permissions. Immutable and shared by all connections of a user.
#[derive(Debug)]
pub struct Permissions {
    publish_allow: Option<Rules>,
    publish_deny: Option<Rules>,
    subscribe_allow: Option<Rules>,
    subscribe_deny: Option<Rules>,
    responses: Option<Responses>,
    source: PermissionsSource,
}

impl Permissions {
    /// Compiles `source`.
    ///
    /// # Errors
    /// [`Error::Permission`] for an entry that is no subject, or no subject and queue for SUB. `owner` names
    /// the user or account in it.
    pub fn new(source: &PermissionsSource, owner: &str) -> Result<Permissions, Error> {
        let mut source = source.clone();
        if source.responses.is_some() {
            // Whoever may answer may, unless told otherwise, publish nothing else.
            source.publish.get_or_insert_default().allow.get_or_insert_default();
        }
        let rules = |list: &[String], queues: bool| Rules::new(list, queues, owner);
        let mut permissions = Permissions {
            publish_allow: None,
            publish_deny: None,
            subscribe_allow: None,
            subscribe_deny: None,
            responses: source.responses.map(Responses::of),
            source: PermissionsSource::default(),
        };
        if let Some(publish) = &source.publish {
            permissions.publish_allow =
                publish.allow.as_deref().map(|list| rules(list, false)).transpose()?;
            permissions.publish_deny = some_list(&publish.deny).map(|list| rules(list, false)).transpose()?;
        }
        if let Some(subscribe) = &source.subscribe {
            let allow = subscribe.allow.as_deref().and_then(some_list);
            permissions.subscribe_allow = allow.map(|list| rules(list, true)).transpose()?;
            permissions.subscribe_deny =
                some_list(&subscribe.deny).map(|list| rules(list, true)).transpose()?;
        }
        permissions.source = source;
        Ok(permissions)
    }

    /// What these were compiled from, for `$SYS.REQ.USER.INFO` and monitoring.
    pub fn source(&self) -> &PermissionsSource {
        &self.source
    }

    /// Whether the lists allow publishing to `subject`. A no may still be overruled by [`crate::Replies`].
    pub fn can_publish(&self, subject: &[u8]) -> bool {
        let allowed = self.publish_allow.as_ref().is_none_or(|rules| rules.trie.has_match(subject));
        allowed && !self.publish_deny.as_ref().is_some_and(|rules| rules.trie.has_match(subject))
    }

    /// The answer to a subscription to `filter`, in `queue` if given.
    ///
    /// One difference from nats-server, which takes the `>` of a subscription for a token that an allowed
    /// `*` covers, so that `allow: "a.*"` lets `SUB a.>` through: here an entry must cover the whole filter.
    pub fn can_subscribe(&self, filter: &[u8], queue: Option<&[u8]>) -> Subscribe {
        if let Some(rules) = &self.subscribe_allow {
            let found = rules.find(filter, |text| is_subset(filter, text));
            let allowed = match queue {
                Some(queue) if !found.queues.is_empty() => found.has_queue(queue),
                _ => found.plain,
            };
            if !allowed {
                return Subscribe::Denied;
            }
        }
        let Some(rules) = &self.subscribe_deny else { return Subscribe::Allowed };
        let found = rules.find(filter, |_| true);
        if found.plain || queue.is_some_and(|queue| found.has_queue(queue)) {
            return Subscribe::Denied;
        }
        if (queue.is_some() || !is_literal(filter)) && rules.collides(filter) {
            Subscribe::AllowedWithDenyFilter
        } else {
            Subscribe::Allowed
        }
    }

    /// Whether a message on the literal `subject` may reach a subscription in `queue`, if given, that was
    /// answered with [`Subscribe::AllowedWithDenyFilter`].
    pub fn can_deliver(&self, subject: &[u8], queue: Option<&[u8]>) -> bool {
        let Some(rules) = &self.subscribe_deny else { return true };
        let found = rules.find(subject, |_| true);
        !found.plain && !queue.is_some_and(|queue| found.has_queue(queue))
    }

    /// The bounds of `allow_responses`, if the user has it.
    pub fn responses(&self) -> Option<Responses> {
        self.responses
    }
}

fn some_list(list: &[String]) -> Option<&[String]> {
    (!list.is_empty()).then_some(list)
}

impl Responses {
    fn of(source: ResponsesSource) -> Responses {
        let bound = |number: i64, default: u64| match number {
            0 => Some(default),
            number => u64::try_from(number).ok(),
        };
        Responses {
            messages_max: bound(source.messages_max, RESPONSES_MAX),
            expires_nanos: bound(source.expires_nanos, RESPONSES_EXPIRE_NANOS),
        }
    }
}

/// A list, indexed. By filter: whether it stands alone, and the queues it stands with.
#[derive(Debug)]
struct Rules {
    trie: Trie,
    entries: Vec<Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    plain: bool,
    queues: Vec<Box<[u8]>>,
}

/// What of a list applies to a subject.
struct Found<'a> {
    plain: bool,
    queues: Vec<&'a [u8]>,
}

impl Found<'_> {
    /// Queue names may hold wildcards, and a queue may be named like a wildcard.
    fn has_queue(&self, queue: &[u8]) -> bool {
        self.queues.iter().any(|name| *name == queue || (!is_literal(name) && is_subset(queue, name)))
    }
}

impl Rules {
    fn new(list: &[String], queues: bool, owner: &str) -> Result<Rules, Error> {
        // Administrators write these lists, so there is nobody to hide the seed from.
        let mut rules = Rules { trie: Trie::new(0), entries: Vec::new() };
        for text in list {
            let (filter, queue) =
                split(text, queues).map_err(|reason| Error::Permission { owner: owner.into(), reason })?;
            let (id, new) = rules.trie.insert(filter.as_bytes());
            if new {
                rules.entries.push(Entry::default());
            }
            let Some(entry) = rules.entries.get_mut(id.index()) else { continue };
            match queue {
                Some(queue) => entry.queues.push(queue.as_bytes().into()),
                None => entry.plain = true,
            }
        }
        Ok(rules)
    }

    fn find(&self, subject: &[u8], covers: impl Fn(&[u8]) -> bool) -> Found<'_> {
        let (mut ids, mut text) = (Vec::new(), Vec::new());
        self.trie.matches(subject, self.trie.hash(subject), &mut ids);
        let mut found = Found { plain: false, queues: Vec::new() };
        for id in ids {
            text.clear();
            self.trie.text(id, &mut text);
            let Some(entry) = self.entries.get(id.index()).filter(|_| covers(&text)) else { continue };
            found.plain |= entry.plain;
            found.queues.extend(entry.queues.iter().map(|queue| &**queue));
        }
        found
    }

    fn collides(&self, filter: &[u8]) -> bool {
        let mut text = Vec::new();
        self.trie.iter().any(|id| {
            text.clear();
            self.trie.text(id, &mut text);
            collide(filter, &text)
        })
    }
}

/// `subject` or, where queues are known, `subject queue`. Errors read as nats-server's.
fn split(text: &str, queues: bool) -> Result<(&str, Option<&str>), String> {
    if is_valid(text.as_bytes()) {
        return Ok((text, None));
    }
    let mut fields = text.split_whitespace();
    let (Some(filter), Some(queue), None, true) = (fields.next(), fields.next(), fields.next(), queues)
    else {
        return Err(format!("subject {text:?} is not a valid subject"));
    };
    if !is_valid(filter.as_bytes()) {
        return Err(format!("subject {filter:?} is not a valid subject"));
    }
    if !is_valid(queue.as_bytes()) {
        return Err(format!("queue {queue:?} is not a valid queue"));
    }
    Ok((filter, Some(queue)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &[&str]) -> Vec<String> {
        text.iter().map(|text| (*text).into()).collect()
    }

    fn subscribe(allow: &[&str], deny: &[&str]) -> Permissions {
        let subscribe = SubjectsSource { allow: Some(list(allow)), deny: list(deny) };
        Permissions::new(&PermissionsSource { subscribe: Some(subscribe), ..Default::default() }, "u")
            .unwrap()
    }

    fn publish(allow: Option<&[&str]>, deny: &[&str]) -> Permissions {
        let publish = SubjectsSource { allow: allow.map(list), deny: list(deny) };
        Permissions::new(&PermissionsSource { publish: Some(publish), ..Default::default() }, "u").unwrap()
    }

    #[test]
    fn publishing_follows_allow_then_deny() {
        let permissions = publish(Some(&["foo.*", "bar.>"]), &["bar.secret"]);
        for (subject, expected) in
            [("foo.x", true), ("foo.x.y", false), ("bar.a.b", true), ("bar.secret", false), ("baz", false)]
        {
            assert_eq!(permissions.can_publish(subject.as_bytes()), expected, "{subject}");
        }
        assert!(publish(None, &["a"]).can_publish(b"b"));
        assert!(!publish(None, &["a"]).can_publish(b"a"));
        assert!(!publish(Some(&[]), &[]).can_publish(b"a"));
        assert!(Permissions::new(&PermissionsSource::default(), "u").unwrap().can_publish(b"a"));
    }

    #[test]
    fn who_may_respond_may_publish_nothing_else() {
        let responses = Some(ResponsesSource::default());
        let permissions =
            Permissions::new(&PermissionsSource { responses, ..Default::default() }, "u").unwrap();
        assert!(!permissions.can_publish(b"a"));
        let expected = Responses { messages_max: Some(1), expires_nanos: Some(120_000_000_000) };
        assert_eq!(permissions.responses(), Some(expected));
        let unbounded = Responses::of(ResponsesSource { messages_max: -1, expires_nanos: -1 });
        assert_eq!(unbounded, Responses { messages_max: None, expires_nanos: None });
    }

    #[test]
    fn subscribing_needs_an_entry_that_covers_the_filter() {
        let permissions = subscribe(&["foo.*", "bar"], &[]);
        for (filter, expected) in [
            ("foo.x", Subscribe::Allowed),
            ("foo.*", Subscribe::Allowed),
            ("foo.>", Subscribe::Denied),
            ("foo", Subscribe::Denied),
            (">", Subscribe::Denied),
            ("bar", Subscribe::Allowed),
            ("ba*", Subscribe::Denied),
        ] {
            assert_eq!(permissions.can_subscribe(filter.as_bytes(), None), expected, "{filter}");
            // Without queues in the list, any queue may be used.
            assert_eq!(permissions.can_subscribe(filter.as_bytes(), Some(b"q")), expected, "{filter}");
        }
    }

    /// Seen on nats-server 2.15.2.
    #[test]
    fn queues_in_the_allow_list_bind_those_who_use_one() {
        let permissions = subscribe(&["foo.*", "foo.* v1", "q.x v1.*", "r odd.*"], &[]);
        for (filter, queue, expected) in [
            ("foo.x", None, Subscribe::Allowed),
            ("foo.x", Some("v1"), Subscribe::Allowed),
            ("foo.x", Some("v2"), Subscribe::Denied),
            ("q.x", None, Subscribe::Denied),
            ("q.x", Some("v1.a"), Subscribe::Allowed),
            ("q.x", Some("v1.a.b"), Subscribe::Denied),
            ("q.x", Some("w"), Subscribe::Denied),
            ("r", Some("odd.*"), Subscribe::Allowed),
        ] {
            let answer = permissions.can_subscribe(filter.as_bytes(), queue.map(str::as_bytes));
            assert_eq!(answer, expected, "{filter} {queue:?}");
        }
    }

    #[test]
    fn denied_subjects_are_filtered_from_wider_subscriptions() {
        let permissions = subscribe(&[">"], &["foo.secret", "q.> dev", "x.*"]);
        let answer = |filter: &str, queue: Option<&str>| {
            permissions.can_subscribe(filter.as_bytes(), queue.map(str::as_bytes))
        };
        assert_eq!(answer("foo.secret", None), Subscribe::Denied);
        assert_eq!(answer("foo.*", None), Subscribe::AllowedWithDenyFilter);
        assert_eq!(answer("foo.open", None), Subscribe::Allowed);
        assert_eq!(answer("x.*", None), Subscribe::Denied);
        assert_eq!(answer("x.>", None), Subscribe::Denied);
        assert_eq!(answer("q.a", Some("dev")), Subscribe::Denied);
        assert_eq!(answer("q.a", Some("prod")), Subscribe::AllowedWithDenyFilter);
        assert_eq!(answer("q.a", None), Subscribe::Allowed);
        assert!(!permissions.can_deliver(b"foo.secret", None));
        assert!(permissions.can_deliver(b"foo.open", None));
        assert!(permissions.can_deliver(b"q.a", None));
        assert!(permissions.can_deliver(b"q.a", Some(b"prod")));
        assert!(!permissions.can_deliver(b"q.a", Some(b"dev")));
    }

    #[test]
    fn entries_that_are_no_subjects_are_refused_by_name() {
        let refused =
            |queues: bool, text: &str| Rules::new(&list(&[text]), queues, "user a").unwrap_err().to_string();
        assert!(refused(false, "foo..bar").contains(r#"user a: subject "foo..bar" is not a valid subject"#));
        assert!(refused(false, "foo q").contains("is not a valid subject"));
        assert!(refused(true, "foo q r").contains("is not a valid subject"));
        assert!(refused(true, "foo q..r").contains(r#"queue "q..r" is not a valid queue"#));
    }
}
