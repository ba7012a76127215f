//! Accounts and users of a cluster: what servers are to know, what Secrets are to hold, what users are told.
//!
//! Owns the meaning of `NatsAccount` and `NatsUser`. Pure: what exists, the clock and randomness are
//! arguments, and drivers (`crate::tenants`, `crate::local`) carry out the [`Outcome`].

pub mod credentials;
mod settings;
mod status;

use std::collections::BTreeMap;

use config::accounts::Account;
use config::auth::{Credential, Place, User};
use nkeys::{KeyPair, KeyPairType};
use sha2::{Digest as _, Sha256};

pub use status::{Served, account_status, status_notes, user_status};

use self::credentials::{Credentials, Wanted};
use crate::crd::{AuthMode, NatsAccount, NatsUser};
use crate::reason::Reason;
use crate::validate::duration;

/// Annotation of a `NatsUser`: a new value replaces its credentials, with the overlap of its spec.
pub const ROTATE: &str = "starling.dev/rotate";

/// Account of [`with_closed_door`].
const NOBODY: &str = "STARLING_OPERATOR";

/// What a user's Secret is now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "one for each user, mostly of the large kind")]
pub enum Held {
    /// There is none, or its content is lost.
    Nothing,
    /// Ours.
    Ours(Credentials),
    /// The name belongs to somebody else.
    Foreign,
}

/// What exists.
pub struct Observed<'a> {
    /// Who may connect to the cluster.
    pub auth: AuthMode,
    /// The cluster's accounts.
    pub accounts: &'a [NatsAccount],
    /// The cluster's users.
    pub users: &'a [NatsUser],
    /// The users' Secrets, by name of the user.
    pub held: &'a BTreeMap<String, Held>,
    /// The accounts of the configuration that was last written.
    pub before: &'a [Account],
    /// Whether every running server has that configuration.
    pub before_is_live: bool,
    /// Seconds since 1970.
    pub now: i64,
}

/// Why an object is not carried out as it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// In one word.
    pub reason: Reason,
    /// One sentence.
    pub message: String,
}

/// What is to be.
#[derive(Debug, Default)]
pub struct Outcome {
    /// For the servers' configuration.
    pub accounts: Vec<Account>,
    /// The users' credentials, by name of the user.
    pub credentials: BTreeMap<String, Credentials>,
    /// Accounts that are not as their spec says, by name.
    pub refused_accounts: BTreeMap<String, Refusal>,
    /// Users that are not as their spec says, by name.
    pub refused_users: BTreeMap<String, Refusal>,
    /// Users of each account.
    pub users: BTreeMap<String, usize>,
    /// When to look again although nothing changed, in seconds since 1970.
    pub wake_at: Option<i64>,
}

/// Decides about all accounts and users of a cluster. `random` gives 32 bytes that nobody can guess.
pub fn decide(observed: &Observed<'_>, mut random: impl FnMut() -> [u8; 32]) -> Outcome {
    let mut outcome = Outcome::default();
    if observed.auth != AuthMode::Static {
        let refusal = || Refusal {
            reason: Reason::AuthDisabled,
            message: "spec.auth.mode of the NatsCluster is None; set it to Static".to_owned(),
        };
        outcome.refused_accounts = observed.accounts.iter().map(|object| (name(object), refusal())).collect();
        outcome.refused_users = observed.users.iter().map(|object| (name(object), refusal())).collect();
        return outcome;
    }
    let mut wanted: BTreeMap<String, settings::Wanted> = BTreeMap::new();
    for object in observed.accounts {
        let (name, account) = (name(object), settings::account(object));
        wanted.insert(name.clone(), settings::Wanted { name, account, users: Vec::new() });
    }
    for object in observed.users {
        let (user, account) = (name(object), object.spec.account_ref.name.as_str());
        let Some(entry) = wanted.get_mut(account) else {
            let message = format!("no NatsAccount {account} of this cluster in this namespace");
            outcome.refused_users.insert(user, Refusal { reason: Reason::AccountNotFound, message });
            continue;
        };
        *outcome.users.entry(account.to_owned()).or_default() += 1;
        let asked = asked(object);
        let is_live = |login: &str| {
            let known = observed.before.iter().flat_map(|account| &account.users);
            observed.before_is_live && known.into_iter().any(|user| user.name() == login)
        };
        let credentials = match observed.held.get(&user) {
            Some(Held::Foreign) => {
                let message = format!(
                    "Secret {} exists and does not belong to this NatsUser; delete it, or set spec.credentials.secretName",
                    secret_name(object)
                );
                outcome.refused_users.insert(user, Refusal { reason: Reason::SecretTaken, message });
                continue;
            }
            Some(Held::Ours(held)) => held.clone().advance(&asked, observed.now, is_live, random()),
            Some(Held::Nothing) | None => Credentials::first(&asked, observed.now, random()),
        };
        entry.users.push((user.clone(), settings::users(object, &credentials.logins())));
        outcome.wake_at = outcome.wake_at.into_iter().chain(credentials.wake_at(&asked)).min();
        outcome.credentials.insert(user, credentials);
    }
    let logins = &outcome.credentials;
    let is_users = |user: &str, entry: &User| {
        logins.get(user).is_some_and(|held| held.logins().contains(&entry.credential))
    };
    let assembled = settings::assemble(wanted.into_values().collect(), observed.before, is_users);
    let rejected = |(name, problem): (String, String)| {
        let message = format!("{problem}; the servers keep what they had before");
        (name, Refusal { reason: Reason::Rejected, message })
    };
    outcome.refused_accounts.extend(assembled.refused_accounts.into_iter().map(rejected));
    outcome.refused_users.extend(assembled.refused_users.into_iter().map(rejected));
    outcome.accounts = assembled.accounts;
    outcome
}

/// What accounts and users of a cluster that does not exist are told.
pub fn no_cluster(cluster: &str, namespace: &str) -> Refusal {
    let message = format!("no NatsCluster {cluster} in namespace {namespace}");
    Refusal { reason: Reason::ClusterNotFound, message }
}

/// The accounts, and one user whom only the operator could be: without any user at all, servers would let
/// everybody in.
pub fn with_closed_door(accounts: &[Account], route_password: &str) -> Vec<Account> {
    let mut accounts = accounts.to_vec();
    let seed: [u8; 32] = Sha256::digest(format!("starling nobody {route_password}").as_bytes()).into();
    if let Ok(pair) = KeyPair::new_from_raw(KeyPairType::User, seed) {
        accounts.push(of_one_key(NOBODY, pair.public_key()));
    }
    accounts
}

/// An account with one user, whom a public key makes.
pub fn of_one_key(account: &str, key: String) -> Account {
    let user = User {
        credential: Credential::Nkey(key),
        permissions: None,
        allowed_connection_types: std::collections::BTreeSet::new(),
        proxy_required: false,
        position: Place::default(),
    };
    Account { name: account.to_owned(), users: vec![user], ..Account::default() }
}

/// The accounts of a configuration that were somebody's.
pub fn without_door(accounts: &[Account]) -> Vec<Account> {
    let ours = [NOBODY, config::settings::SYSTEM_ACCOUNT];
    accounts.iter().filter(|account| !ours.contains(&account.name.as_str())).cloned().collect()
}

/// Name of a user's Secret.
pub fn secret_name(user: &NatsUser) -> String {
    match user.spec.credentials.secret_name.as_str() {
        "" => format!("{}-nats", name(user)),
        chosen => chosen.to_owned(),
    }
}

/// What a user's spec asks of its credentials.
pub fn asked(user: &NatsUser) -> Wanted {
    let spec = &user.spec.credentials;
    // Durations that the schema's pattern lets through but that are none count as zero.
    let read = |text: &String| duration("spec.credentials", text, &mut Vec::new());
    Wanted {
        name: name(user),
        kind: spec.type_.into(),
        rotate_after: spec.rotate_after.as_ref().map(read).filter(|age| !age.is_zero()),
        overlap: read(&spec.overlap),
        request: user.metadata.annotations.as_ref().and_then(|all| all.get(ROTATE)).cloned(),
    }
}

fn name(object: &impl kube::Resource) -> String {
    object.meta().name.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn account(name: &str) -> NatsAccount {
        serde_json::from_value(json!({"apiVersion": "starling.dev/v1alpha1", "kind": "NatsAccount",
            "metadata": {"name": name}, "spec": {"clusterRef": {"name": "orders"}}}))
        .expect("a NatsAccount")
    }

    fn user(name: &str, account: &str) -> NatsUser {
        serde_json::from_value(json!({"apiVersion": "starling.dev/v1alpha1", "kind": "NatsUser",
            "metadata": {"name": name},
            "spec": {"clusterRef": {"name": "orders"}, "accountRef": {"name": account}}}))
        .expect("a NatsUser")
    }

    fn run(auth: AuthMode, users: &[NatsUser], held: &BTreeMap<String, Held>) -> Outcome {
        let observed = Observed {
            auth,
            accounts: &[account("shop")],
            users,
            held,
            before: &[],
            before_is_live: false,
            now: 0,
        };
        decide(&observed, || [1; 32])
    }

    #[test]
    fn users_get_credentials_in_their_account_and_others_are_told_why_not() {
        let users = [user("ann", "shop"), user("bob", "nowhere"), user("eve", "shop")];
        let held = BTreeMap::from([("eve".to_owned(), Held::Foreign)]);
        let outcome = run(AuthMode::Static, &users, &held);
        assert_eq!(outcome.accounts[0].users.iter().map(User::name).collect::<Vec<_>>(), ["ann_1"]);
        assert_eq!(outcome.refused_users["bob"].reason, Reason::AccountNotFound);
        assert_eq!(outcome.refused_users["eve"].reason, Reason::SecretTaken);
        assert!(outcome.refused_users["eve"].message.starts_with("Secret eve-nats exists"));
        assert_eq!(outcome.users["shop"], 2);
    }

    #[test]
    fn without_static_auth_nothing_is_made_and_everybody_is_told() {
        let outcome = run(AuthMode::None, &[user("ann", "shop")], &BTreeMap::new());
        assert!(outcome.accounts.is_empty() && outcome.credentials.is_empty());
        assert_eq!(outcome.refused_users["ann"].reason, Reason::AuthDisabled);
        assert_eq!(outcome.refused_accounts["shop"].reason, Reason::AuthDisabled);
    }

    #[test]
    fn a_cluster_without_users_lets_nobody_in() {
        let accounts = with_closed_door(&[], "secret");
        assert_eq!(accounts.len(), 1);
        assert_eq!(accounts[0].users.len(), 1);
        assert_eq!(
            accounts,
            with_closed_door(&[], "secret"),
            "or every reconcile would be a new configuration"
        );
    }
}
