//! Permissions of scoped users: templates such as `{{name()}}` in a signing key's subjects.
//!
//! Owns the replacing and its bounds. Never decides whether the key may sign.

use super::claims::{Template, UserClaims};
use subject::is_valid;

/// A template makes no more subjects than this in one list.
const SUBJECTS_MAX: usize = 4096;

/// Whose names and tags the templates speak of.
pub(crate) struct Names<'a> {
    pub user: &'a UserClaims,
    pub account_name: &'a str,
    pub account_tags: &'a [String],
}

/// The permissions and limits of a user signed with the key of `template`.
///
/// A subject that a template makes invalid is left out of what is allowed, but refuses the user where it
/// would be denied: leaving it out there would allow more. If nothing allowed is left, everything is denied.
pub(crate) fn expand(template: &Template, names: &Names<'_>) -> Result<Template, String> {
    let mut expanded = template.clone();
    for part in [&mut expanded.permissions.subscribe, &mut expanded.permissions.publish] {
        let had_allow = !part.allow.is_empty();
        part.allow = list(&part.allow, names, false)?;
        part.deny = list(&part.deny, names, true)?;
        if had_allow && part.allow.is_empty() && !part.deny.iter().any(|subject| subject == ">") {
            part.deny.push(">".into());
        }
    }
    Ok(expanded)
}

fn list(subjects: &[String], names: &Names<'_>, strict: bool) -> Result<Vec<String>, String> {
    if !subjects.iter().any(|subject| next_operation(subject).is_some()) {
        return Ok(subjects.to_vec());
    }
    let mut expanded = Vec::new();
    for subject in subjects {
        let room = SUBJECTS_MAX - expanded.len().min(SUBJECTS_MAX);
        for candidate in expansions(subject, names, strict, room)? {
            // A queue may follow the subject (nats-server drops such entries), but only if the template has
            // it: no name or tag may turn a subject into one with a queue.
            let parts = 1 + spaces(subject);
            let valid = candidate.split(' ').all(|part| is_valid(part.as_bytes()));
            if valid && parts <= 2 && candidate.split(' ').count() == parts {
                expanded.push(candidate);
            } else if strict {
                return Err("generated invalid subject".into());
            }
        }
    }
    Ok(expanded)
}

/// `subject` with every operation replaced, once for each combination of their values.
fn expansions(subject: &str, names: &Names<'_>, strict: bool, room: usize) -> Result<Vec<String>, String> {
    let mut results = vec![String::new()];
    let mut rest = subject;
    while let Some((start, end)) = next_operation(rest) {
        let values = values(rest[start + 2..end - 2].trim(), names, subject, strict)?;
        if results.len().saturating_mul(values.len()) > room {
            return Err(format!("template expansion exceeds limit: {SUBJECTS_MAX}"));
        }
        let before = &rest[..start];
        results = results
            .iter()
            .flat_map(|result| values.iter().map(move |value| format!("{result}{before}{value}")))
            .collect();
        rest = &rest[end..];
    }
    for result in &mut results {
        result.push_str(rest);
    }
    Ok(results)
}

/// Spaces outside of operations.
fn spaces(mut subject: &str) -> usize {
    let count = |text: &str| text.bytes().filter(|byte| *byte == b' ').count();
    let mut spaces = 0;
    while let Some((start, end)) = next_operation(subject) {
        spaces += count(&subject[..start]);
        subject = &subject[end..];
    }
    spaces + count(subject)
}

/// Where the first `{{…}}` without braces inside starts and ends.
fn next_operation(text: &str) -> Option<(usize, usize)> {
    let mut from = 0;
    loop {
        let start = from + text[from..].find("{{")?;
        let inner = start + 2;
        let length = text[inner..].find('}')?;
        if length > 0 && text[inner + length..].starts_with("}}") {
            return Some((start, inner + length + 2));
        }
        from = inner;
    }
}

fn values(operation: &str, names: &Names<'_>, subject: &str, strict: bool) -> Result<Vec<String>, String> {
    let user = names.user;
    if operation.eq_ignore_ascii_case("name()") {
        return Ok(vec![user.name.clone()]);
    }
    if operation.eq_ignore_ascii_case("subject()") {
        return Ok(vec![user.subject.clone()]);
    }
    if operation.eq_ignore_ascii_case("account-name()") {
        return Ok(vec![names.account_name.to_owned()]);
    }
    if operation.eq_ignore_ascii_case("account-subject()") {
        return Ok(vec![user.nats.issuer_account.clone()]);
    }
    let (tag, tags) = if let Some(tag) = argument(operation, "tag(") {
        (tag, &user.nats.tags[..])
    } else if let Some(tag) = argument(operation, "account-tag(") {
        (tag, names.account_tags)
    } else {
        return Err(format!("template operation in {subject:?}: {operation:?} is not defined"));
    };
    let prefix = format!("{}:", tag.to_lowercase());
    let found: Vec<String> =
        tags.iter().filter_map(|tag| tag.strip_prefix(&prefix)).map(str::to_owned).collect();
    match found.is_empty() {
        false => Ok(found),
        true if strict => Err(format!("generated invalid subject {subject:?}: {tag:?} is not defined")),
        // Makes the subject invalid, so that it is left out. The dots keep it from reading as a queue.
        true => Ok(vec!["..".into()]),
    }
}

fn argument<'a>(operation: &'a str, name: &str) -> Option<&'a str> {
    let head = operation.get(..name.len())?;
    head.eq_ignore_ascii_case(name).then(|| operation[name.len()..].strip_suffix(')')).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jwt::claims::{Claims, UserPart};

    fn user(tags: &[&str]) -> UserClaims {
        Claims {
            name: "joe".into(),
            subject: "UJOE".into(),
            nats: UserPart {
                issuer_account: "AACC".into(),
                tags: tags.iter().map(|tag| (*tag).into()).collect(),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    fn expanded(allow: &[&str], deny: &[&str], tags: &[&str]) -> Result<(Vec<String>, Vec<String>), String> {
        let list = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let mut template = Template::default();
        template.permissions.publish.allow = list(allow);
        template.permissions.publish.deny = list(deny);
        let account_tags = list(&["region:eu"]);
        let names = Names { user: &user(tags), account_name: "acc", account_tags: &account_tags };
        expand(&template, &names)
            .map(|template| (template.permissions.publish.allow, template.permissions.publish.deny))
    }

    #[test]
    fn names_and_tags_are_filled_in() {
        let (allow, deny) = expanded(
            &[
                "u.{{name()}}.{{subject()}}",
                "a.{{ Account-Name() }}.{{account-subject()}}",
                "plain.>",
                "q.{{name()}} grp",
            ],
            &["r.{{account-tag(region)}}"],
            &[],
        )
        .unwrap();
        assert_eq!(allow, ["u.joe.UJOE", "a.acc.AACC", "plain.>", "q.joe grp"]);
        assert_eq!(deny, ["r.eu"]);
    }

    #[test]
    fn several_values_make_several_subjects() {
        let (allow, _) =
            expanded(&["{{tag(team)}}.{{tag(ROLE)}}"], &[], &["team:x", "team:y", "role:1", "role:2"])
                .unwrap();
        assert_eq!(allow, ["x.1", "x.2", "y.1", "y.2"]);
    }

    #[test]
    fn what_cannot_be_filled_in_never_allows_more() {
        assert_eq!(expanded(&["t.{{tag(team)}}"], &[], &[]).unwrap(), (vec![], vec![">".to_owned()]));
        let (allow, deny) = expanded(&["t.{{tag(team)}}", "ok"], &[], &[]).unwrap();
        assert_eq!((allow, deny), (vec!["ok".to_owned()], vec![]));
        assert!(expanded(&[], &["t.{{tag(team)}}"], &[]).unwrap_err().contains("is not defined"));
        assert!(expanded(&["t.{{what()}}"], &[], &[]).unwrap_err().contains("is not defined"));
        // A tag that smuggles in a separator or wildcard tail.
        assert!(expanded(&[], &["t.{{tag(team)}}.x"], &["team:>"]).is_err());
        assert_eq!(expanded(&["t.{{tag(team)}}"], &[], &["team:a b c"]).unwrap().1, [">"]);
        assert_eq!(expanded(&["t.{{tag(team)}}"], &[], &["team:a b"]).unwrap().1, [">"]);
    }

    #[test]
    fn expansion_is_bounded() {
        let tags: Vec<String> = (0..100).map(|i| format!("t:{i}")).collect();
        let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
        assert!(expanded(&["{{tag(t)}}.{{tag(t)}}.{{tag(t)}}"], &[], &tags).unwrap_err().contains("limit"));
    }
}
