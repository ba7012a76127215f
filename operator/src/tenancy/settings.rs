//! From `NatsAccount`s and `NatsUser`s to the servers' `accounts { … }`.
//!
//! Owns which setting comes from which field, and that one bad object harms only itself: the server's own
//! rules judge each alone, and what they refuse keeps what the servers had before.

use std::collections::{BTreeMap, BTreeSet};

use config::Settings;
use config::accounts::{
    Account, AccountLimits, Destination, Export, ExportKind, Import, ImportKind, Mapping, ResponseType,
};
use config::auth::{Credential, Place, User};
use config::permissions::{Permissions, ResponsePermission, SubjectPermission};

use crate::build::config::words;
use crate::crd::{self, NatsAccount, NatsUser, ShareType};
use crate::validate::{Invalid, bytes, duration, number};

/// An account's part of the configuration, without its users.
pub(super) fn account(object: &NatsAccount) -> Result<Account, String> {
    let spec = &object.spec;
    let mut problems = Vec::new();
    let limit = |field: &str, value: Option<i32>, problems: &mut Vec<Invalid>| {
        value.map(|value| number(&format!("spec.limits.{field}"), value, problems))
    };
    let limits = AccountLimits {
        max_connections: limit("maxConnections", spec.limits.max_connections, &mut problems),
        max_subscriptions: limit("maxSubscriptions", spec.limits.max_subscriptions, &mut problems),
        max_payload: spec
            .limits
            .max_payload
            .as_ref()
            .and_then(|text| bytes("spec.limits.maxPayload", text, &mut problems))
            .map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX)),
        max_leafnodes: None,
    };
    let account = Account {
        name: name(object),
        default_permissions: spec
            .default_permissions
            .as_ref()
            .map(|written| permissions("spec.defaultPermissions", written, &mut problems)),
        exports: spec.exports.iter().map(|written| export(written, &mut problems)).collect(),
        imports: spec.imports.iter().map(import).collect(),
        mappings: spec.mappings.iter().map(mapping).collect(),
        limits,
        ..Account::default()
    };
    joined(problems).map(|()| account)
}

/// A user's part, once for each of its credentials.
pub(super) fn users(object: &NatsUser, logins: &[Credential]) -> Result<Vec<User>, String> {
    let mut problems = Vec::new();
    let permissions = object
        .spec
        .permissions
        .as_ref()
        .map(|written| permissions("spec.permissions", written, &mut problems));
    joined(problems)?;
    let user = |credential: &Credential| User {
        credential: credential.clone(),
        permissions: permissions.clone(),
        allowed_connection_types: BTreeSet::new(),
        proxy_required: false,
        position: Place::default(),
    };
    Ok(logins.iter().map(user).collect())
}

fn joined(problems: Vec<Invalid>) -> Result<(), String> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

fn permissions(field: &str, written: &crd::Permissions, problems: &mut Vec<Invalid>) -> Permissions {
    let subjects = |lists: &crd::SubjectPermission| SubjectPermission {
        allow: (!lists.allow.is_empty()).then(|| lists.allow.clone()),
        deny: lists.deny.clone(),
    };
    Permissions {
        publish: written.publish.as_ref().map(subjects),
        subscribe: written.subscribe.as_ref().map(subjects),
        allow_responses: written.allow_responses.as_ref().map(|responses| ResponsePermission {
            max_msgs: Some(number(
                &format!("{field}.allowResponses.maxMessages"),
                responses.max_messages,
                problems,
            )),
            expires: Some(duration(&format!("{field}.allowResponses.expires"), &responses.expires, problems)),
        }),
    }
}

fn export(written: &crd::AccountExport, problems: &mut Vec<Invalid>) -> Export {
    let kind = match written.type_ {
        ShareType::Stream => ExportKind::Stream,
        ShareType::Service => ExportKind::Service {
            response_type: match written.response_type.unwrap_or_default() {
                crd::ResponseType::Singleton => ResponseType::Singleton,
                crd::ResponseType::Stream => ResponseType::Stream,
                crd::ResponseType::Chunked => ResponseType::Chunked,
            },
            response_threshold: written
                .response_threshold
                .as_ref()
                .map(|text| duration("spec.exports.responseThreshold", text, problems)),
            latency: None,
            allow_trace: false,
        },
    };
    Export {
        subject: written.subject.clone(),
        kind,
        accounts: written.accounts.clone(),
        account_token_position: 0,
        position: Place::default(),
    }
}

fn import(written: &crd::AccountImport) -> Import {
    let to = written.to.clone();
    let kind = match written.type_ {
        ShareType::Stream => ImportKind::Stream { prefix: None, to, allow_trace: false },
        ShareType::Service => ImportKind::Service { to, share: false },
    };
    Import {
        account: written.account.clone(),
        subject: written.subject.clone(),
        kind,
        position: Place::default(),
    }
}

fn mapping(written: &crd::SubjectMapping) -> Mapping {
    let destination = |to: &crd::MappingDestination| Destination {
        subject: to.subject.clone(),
        // The schema holds it between 0 and 100.
        weight: u8::try_from(to.weight).unwrap_or(u8::MAX),
        cluster: to.cluster.clone(),
    };
    Mapping {
        subject: written.subject.clone(),
        destinations: written.destinations.iter().map(destination).collect(),
    }
}

fn name(object: &impl kube::Resource) -> String {
    object.meta().name.clone().unwrap_or_default()
}

/// What the server says to these accounts.
fn check(accounts: &[Account]) -> Result<(), String> {
    let settings = Settings { accounts: accounts.to_vec(), accounts_defined: true, ..Settings::default() };
    let checked = Settings::from_config(&config::to_config(&settings));
    checked.and_then(|checked| checked.settings.validate()).map_err(|error| words(&error))
}

/// One account that somebody wants, with its users.
pub(super) struct Wanted {
    /// Name of the account.
    pub name: String,
    /// What it is to be.
    pub account: Result<Account, String>,
    /// Users by name, in order: their entries.
    pub users: Vec<(String, Result<Vec<User>, String>)>,
}

/// What servers are to have, and what was refused.
#[derive(Debug, Default)]
pub(super) struct Assembled {
    /// The accounts, by name.
    pub accounts: Vec<Account>,
    /// Accounts that keep what they had before, and why.
    pub refused_accounts: BTreeMap<String, String>,
    /// Users that keep what they had before, and why.
    pub refused_users: BTreeMap<String, String>,
}

/// Puts accounts together; what the server would refuse is replaced by what `before` had, or left out.
///
/// `former_users` says, for a refused user, which names of `before` are its own.
pub(super) fn assemble(
    mut wanted: Vec<Wanted>,
    before: &[Account],
    is_users: impl Fn(&str, &User) -> bool,
) -> Assembled {
    wanted.sort_by(|a, b| a.name.cmp(&b.name));
    let had = |name: &str| before.iter().find(|account| account.name == name);
    let mut result = Assembled::default();
    // Imports come last: they need the exports of all.
    let mut imports: Vec<(String, Vec<Import>)> = Vec::new();
    for Wanted { name, account, users } in wanted {
        let alone = account.and_then(|account| {
            let without = Account { imports: Vec::new(), ..account.clone() };
            check_alone(&without).map(|()| (without, account.imports))
        });
        let (mut account, wishes) = match alone {
            Ok(found) => found,
            Err(problem) => {
                result.refused_accounts.insert(name.clone(), problem);
                let Some(former) = had(&name).cloned() else { continue };
                let wishes = former.imports.clone();
                (Account { imports: Vec::new(), users: Vec::new(), ..former }, wishes)
            }
        };
        account.name.clone_from(&name);
        for (user, entries) in users {
            let checked = entries.and_then(|entries| {
                let alone = Account { name: name.clone(), users: entries.clone(), ..Account::default() };
                check(&[alone]).map(|()| entries)
            });
            match checked {
                Ok(entries) => account.users.extend(entries),
                Err(problem) => {
                    let entries = had(&name).into_iter().flat_map(|former| &former.users);
                    account.users.extend(entries.filter(|entry| is_users(&user, entry)).cloned());
                    result.refused_users.insert(user, problem);
                }
            }
        }
        imports.push((name, wishes));
        result.accounts.push(account);
    }
    add_imports(&mut result, imports, before);
    result
}

/// An account that exports to others names them, and the server wants them to exist.
fn check_alone(account: &Account) -> Result<(), String> {
    let named: BTreeSet<&String> = account.exports.iter().flat_map(|export| &export.accounts).collect();
    let others = named.into_iter().filter(|name| **name != account.name);
    let others = others.map(|name| Account { name: name.clone(), ..Account::default() });
    check(&std::iter::once(account.clone()).chain(others).collect::<Vec<_>>())
}

fn add_imports(result: &mut Assembled, imports: Vec<(String, Vec<Import>)>, before: &[Account]) {
    for (name, wishes) in imports {
        if wishes.is_empty() {
            continue;
        }
        let former = before.iter().find(|account| account.name == name);
        let former = former.map(|account| account.imports.clone()).unwrap_or_default();
        let mut problem = None;
        for wish in [wishes, former, Vec::new()] {
            let mut tried = result.accounts.clone();
            let Some(account) = tried.iter_mut().find(|account| account.name == name) else { break };
            account.imports = wish;
            match check(&tried) {
                Ok(()) => {
                    result.accounts = tried;
                    break;
                }
                Err(found) => problem = problem.or(Some(found)),
            }
        }
        if let Some(problem) = problem {
            result.refused_accounts.entry(name).or_insert(problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wanted(name: &str, spec: serde_json::Value) -> Wanted {
        let mut spec = spec;
        spec["clusterRef"] = json!({"name": "orders"});
        let object: NatsAccount = serde_json::from_value(json!({
            "apiVersion": "starling.dev/v1alpha1", "kind": "NatsAccount",
            "metadata": {"name": name}, "spec": spec,
        }))
        .expect("a NatsAccount");
        Wanted { name: name.to_owned(), account: account(&object), users: Vec::new() }
    }

    fn with_user(mut wanted: Wanted, name: &str, permissions: serde_json::Value) -> Wanted {
        let object: NatsUser = serde_json::from_value(json!({
            "apiVersion": "starling.dev/v1alpha1", "kind": "NatsUser", "metadata": {"name": name},
            "spec": {"clusterRef": {"name": "orders"}, "accountRef": {"name": wanted.name},
                     "permissions": permissions},
        }))
        .expect("a NatsUser");
        let login = Credential::Password { username: format!("{name}_1"), password: "hash".to_owned() };
        wanted.users.push((name.to_owned(), users(&object, &[login])));
        wanted
    }

    fn assembled(wanted: Vec<Wanted>, before: &[Account]) -> Assembled {
        assemble(wanted, before, |user, entry| entry.name().starts_with(&format!("{user}_")))
    }

    fn text(accounts: &[Account]) -> String {
        let settings =
            Settings { accounts: accounts.to_vec(), accounts_defined: true, ..Settings::default() };
        config::to_config(&settings).render()
    }

    #[test]
    fn every_field_reaches_the_servers() {
        let shop = wanted(
            "shop",
            json!({
                "limits": {"maxConnections": 10, "maxSubscriptions": 20, "maxPayload": "1Ki"},
                "defaultPermissions": {"publish": {"deny": ["secret.>"]}},
                "exports": [{"subject": "orders.>", "accounts": ["books"]},
                            {"type": "Service", "subject": "price", "responseType": "Stream"}],
                "mappings": [{"subject": "old.*", "destinations": [{"subject": "new.{{wildcard(1)}}"}]}],
            }),
        );
        let permissions = json!({"publish": {"allow": ["orders.new"]}, "subscribe": {"allow": ["_INBOX.>"]},
                                 "allowResponses": {"maxMessages": 2, "expires": "1m"}});
        let books =
            wanted("books", json!({"imports": [{"account": "shop", "subject": "orders.>", "to": "shop.>"}]}));
        let result = assembled(vec![with_user(shop, "checkout", permissions), books], &[]);
        assert_eq!((&result.refused_accounts, &result.refused_users), (&BTreeMap::new(), &BTreeMap::new()));
        let text = text(&result.accounts);
        for part in [
            "max_connections",
            "max_subscriptions",
            "max_payload",
            "secret.>",
            "price",
            "new.{{wildcard(1)}}",
            "shop.>",
            "checkout_1",
            "orders.new",
            "_INBOX.>",
            "1m",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn a_bad_object_keeps_what_it_had_and_harms_no_other() {
        let good = || {
            vec![
                with_user(wanted("shop", json!({"exports": [{"subject": "orders.>"}]})), "ann", json!({})),
                with_user(
                    wanted("books", json!({"imports": [{"account": "shop", "subject": "orders.>"}]})),
                    "bob",
                    json!({}),
                ),
            ]
        };
        let before = assembled(good(), &[]).accounts;
        assert_eq!(before.len(), 2);

        let mut bad = good();
        bad[0] = with_user(
            wanted("shop", json!({"exports": [{"subject": "orders.>"}, {"subject": "a..b"}]})),
            "ann",
            json!({}),
        );
        let result = assembled(bad, &before);
        assert_eq!(result.accounts.iter().map(|a| a.name.as_str()).collect::<Vec<_>>(), ["books", "shop"]);
        assert_eq!(result.accounts[1].exports.len(), 1, "as before");
        assert!(result.refused_accounts["shop"].contains("a..b"), "{result:?}");
        assert_eq!(result.refused_accounts.len(), 1, "{result:?}");

        let mut bad = good();
        bad[1].account =
            wanted("books", json!({"imports": [{"account": "shop", "subject": "private"}]})).account;
        let result = assembled(bad, &before);
        assert_eq!(result.accounts[0].imports, before[0].imports, "as before");
        assert!(result.refused_accounts.contains_key("books"), "{result:?}");

        let mut bad = good();
        let mut books = bad.remove(1);
        books.users.clear();
        bad.push(with_user(books, "bob", json!({"publish": {"allow": ["a..b"]}})));
        let result = assembled(bad, &before);
        assert!(result.refused_users["bob"].contains("a..b"), "{result:?}");
        assert_eq!(result.accounts[0].users, before[0].users, "as before");
    }

    #[test]
    fn an_account_that_was_never_right_is_left_out() {
        let result = assembled(
            vec![wanted("shop", json!({"exports": [{"subject": "a..b"}]})), wanted("books", json!({}))],
            &[],
        );
        assert_eq!(result.accounts.iter().map(|a| a.name.as_str()).collect::<Vec<_>>(), ["books"]);
    }
}
