//! What a user is promised of the settings as a whole.

mod arbitrary;
mod diff;
mod documented;
mod keys;
mod refusals;

use crate::error::Problem;
use crate::{Config, Error, Settings};

fn read(text: &str) -> crate::Checked {
    match Settings::from_config(&Config::parse_text(text).unwrap_or_else(|error| panic!("{text}: {error}"))) {
        Ok(checked) => checked,
        Err(error) => panic!("{text}: {error}"),
    }
}

fn settings(text: &str) -> Settings {
    read(text).settings
}

fn problems(text: &str) -> Vec<Problem> {
    match Settings::from_config(&Config::parse_text(text).unwrap_or_else(|error| panic!("{text}: {error}"))) {
        Err(Error::Invalid { problems, .. }) => problems,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn without_a_file_the_defaults_are_nats_servers() {
    let s = Settings::default();
    assert_eq!(s.auth_timeout().as_secs(), 2);
    assert_eq!(s.http_host(), "0.0.0.0");
    assert_eq!(s.http_base_path(), "/");
    assert_eq!(s.system_account_name(), Some("$SYS"));
    assert_eq!(s.pinned_accounts(s.system_account_name()), ["$SYS"]);
    assert_eq!((s.cluster.pool_size, s.limits.max_payload, s.limits.max_pending), (3, 1 << 20, 64 << 20));
    let empty = read("");
    assert_eq!(empty.settings, s);
    assert_eq!(empty.warnings[0].message, "config has no values or is empty");
}

#[test]
fn what_depends_on_other_settings_follows_them() {
    let s = settings(
        "host: h\ntls { cert_file: a, key_file: b, timeout: 3.5 }\nhttp_base_path: a/../b//c/\nno_sys_acc: true",
    );
    assert_eq!(s.auth_timeout().as_millis(), 4500);
    assert_eq!((s.http_host(), s.http_base_path().as_str()), ("h", "/b/c"));
    assert_eq!(s.system_account_name(), None);
    assert!(s.pinned_accounts(s.system_account_name()).is_empty());
    let s = settings("system_account: S, accounts: {S {}}\ncluster { accounts: [A] }");
    assert_eq!(s.pinned_accounts(s.system_account_name()), ["A", "S"]);
    assert!(settings("cluster { pool_size: -1 }").pinned_accounts(Some("S")).is_empty());
    let s =
        settings("authorization { timeout: \"1m\", users: [{user: a}], default_permissions: {publish: x} }");
    assert_eq!(s.auth_timeout().as_secs(), 60);
    let auth = &s.authorization;
    assert!(auth.permissions_of(&auth.users[0]).is_some());
}

#[test]
fn accounts_with_their_users_imports_and_exports_are_read() {
    let s = settings(
        "accounts {
           A { users: [ {user: a, password: $2a$11$abc}, {nkey: UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4} ]
               exports: [ {stream: \"pub.>\"}, {service: req, accounts: [B], response: chunked, threshold: 5s,
                           latency: {sampling: headers, subject: lat}} ] }
           B { imports: [ {stream: {account: A, subject: \"pub.x\"}, prefix: p}, {service: {account: A, subject: req}, to: r} ]
               mappings: { foo: bar, \"a.*\": [ {dest: \"b.$1\", weight: 40%}, {dest: \"c.$1\", weight: 60, cluster: x} ] }
               limits: { max_conn: 1, max_payload: 2k } }
         }",
    );
    assert_eq!(s.accounts.len(), 2);
    assert_eq!(
        s.users().map(|(account, user)| (account, user.name().len())).collect::<Vec<_>>(),
        [("A", 1), ("A", 56)]
    );
    let b = &s.accounts[1];
    assert_eq!((b.imports.len(), b.mappings.len(), b.limits.max_payload), (2, 2, Some(2000)));
    assert_eq!(b.mappings[1].destinations[1].cluster.as_deref(), Some("x"));
}

#[test]
fn a_reply_permission_closes_publishing_as_in_nats_server() {
    let s = settings(
        "authorization { users: [ {user: a, permissions: {subscribe: [x, \"y q\"], allow_responses: true}}, {user: b, permissions: {publish: []}} ] }",
    );
    let permissions = |at: usize| s.authorization.users[at].permissions.clone().unwrap();
    assert_eq!(permissions(0).publish.unwrap().allow, Some(vec![]), "only replies");
    assert_eq!(permissions(1).publish.unwrap().allow, None, "an empty list is no list");
}
