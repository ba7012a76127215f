//! What users are told about `NatsAccount`s and `NatsUser`s: status, conditions, Events.

use config::accounts::Account;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use super::{Outcome, Refusal, asked, name, secret_name};
use crate::crd::{NatsAccount, NatsAccountStatus, NatsUser, NatsUserStatus};
use crate::reason::Reason;
use crate::status::Note;

/// What servers have.
#[derive(Clone, Copy, Debug)]
pub struct Served<'a> {
    /// Accounts that every running server has, at least.
    pub accounts: &'a [Account],
    /// Whether every running server has all of [`Outcome::accounts`].
    pub is_complete: bool,
    /// Running servers.
    pub servers: usize,
}

const READY: &str = "Ready";
const SYNCED: &str = "Synced";

/// Status of an account.
pub fn account_status(
    object: &NatsAccount,
    outcome: &Outcome,
    served: Served<'_>,
    now: &Time,
) -> NatsAccountStatus {
    let name = name(object);
    let generation = object.metadata.generation.unwrap_or_default();
    let refusal = outcome.refused_accounts.get(&name);
    let is_known = served.servers > 0 && served.accounts.iter().any(|account| account.name == name);
    let before = object.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let known = if is_known {
        ("True", Reason::Known, "every server knows the account".to_owned())
    } else {
        unknown(refusal, served, "the account")
    };
    NatsAccountStatus {
        observed_generation: Some(generation),
        users: i32::try_from(outcome.users.get(&name).copied().unwrap_or_default()).unwrap_or(i32::MAX),
        conditions: conditions([(READY, known), (SYNCED, synced(refusal, served))], generation, before, now),
    }
}

/// Status of a user.
pub fn user_status(object: &NatsUser, outcome: &Outcome, served: Served<'_>, now: &Time) -> NatsUserStatus {
    let name = name(object);
    let generation = object.metadata.generation.unwrap_or_default();
    let refusal = outcome.refused_users.get(&name);
    let held = outcome.credentials.get(&name);
    let is_known = served.servers > 0
        && held.is_some_and(|held| {
            let mut users = served.accounts.iter().flat_map(|account| &account.users);
            users.any(|user| user.name() == held.current.user)
        });
    let before = object.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let known = if is_known {
        ("True", Reason::Accepted, format!("every server lets in who has Secret {}", secret_name(object)))
    } else {
        unknown(refusal, served, "the user")
    };
    let time = |seconds: i64| Timestamp::from_second(seconds).ok().map(Time);
    let former = held.and_then(|held| held.former.as_ref());
    NatsUserStatus {
        observed_generation: Some(generation),
        secret_name: held.map(|_| secret_name(object)),
        user: held.map(|held| held.current.user.clone()),
        former_until: former.and_then(|former| time(former.until)),
        rotates_at: held.and_then(|held| held.rotates_at(&asked(object))).and_then(time),
        conditions: conditions([(READY, known), (SYNCED, synced(refusal, served))], generation, before, now),
    }
}

type Verdict = (&'static str, Reason, String);

fn unknown(refusal: Option<&Refusal>, served: Served<'_>, what: &str) -> Verdict {
    match refusal {
        Some(refusal) => ("False", refusal.reason, refusal.message.clone()),
        None if served.servers == 0 => ("False", Reason::NoServers, "no server runs".to_owned()),
        None => ("False", Reason::Pending, format!("not every server knows {what} yet")),
    }
}

fn synced(refusal: Option<&Refusal>, served: Served<'_>) -> Verdict {
    match refusal {
        Some(refusal) => ("False", refusal.reason, refusal.message.clone()),
        None if served.is_complete && served.servers > 0 => {
            ("True", Reason::Applied, format!("all {} servers have it as the spec says", served.servers))
        }
        None => {
            ("False", Reason::Pending, "waiting for every server to have the newest configuration".to_owned())
        }
    }
}

fn conditions(
    verdicts: [(&str, Verdict); 2],
    generation: i64,
    before: &[Condition],
    now: &Time,
) -> Vec<Condition> {
    let condition = |(type_, (status, reason, message)): (&str, Verdict)| {
        let same = before.iter().find(|before| before.type_ == type_ && before.status == status);
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.as_str().to_owned(),
            message,
            observed_generation: Some(generation),
            last_transition_time: same
                .map_or_else(|| now.clone(), |before| before.last_transition_time.clone()),
        }
    };
    verdicts.into_iter().map(condition).collect()
}

/// What is worth an Event: a refusal, and credentials that changed. Waiting is none.
pub fn status_notes(
    before: &[Condition],
    after: &[Condition],
    users: Option<(Option<&String>, Option<&String>)>,
) -> Vec<Note> {
    const WARNINGS: [Reason; 5] = [
        Reason::Rejected,
        Reason::AccountNotFound,
        Reason::SecretTaken,
        Reason::AuthDisabled,
        Reason::ClusterNotFound,
    ];
    let synced =
        |conditions: &[Condition]| conditions.iter().find(|condition| condition.type_ == SYNCED).cloned();
    let (was, is) = (synced(before), synced(after));
    let mut notes = Vec::new();
    if let Some(is) = is
        && was.as_ref().map(|was| (&was.reason, &was.message)) != Some((&is.reason, &is.message))
        && let Some(reason) = WARNINGS.into_iter().find(|reason| reason.as_str() == is.reason)
    {
        notes.push(Note { warning: true, reason, message: is.message });
    }
    match users {
        Some((Some(was), Some(is))) if was != is => notes.push(Note {
            warning: false,
            reason: Reason::CredentialsRotated,
            message: format!("the Secret now holds {is}; {was} is let in until the overlap ends"),
        }),
        Some((None, Some(is))) => notes.push(Note {
            warning: false,
            reason: Reason::CredentialsCreated,
            message: format!("the Secret holds {is}"),
        }),
        _ => {}
    }
    notes
}
