//! Tables built from configuration: who is let in, as whom, and what accounts share.

use accounts::exchange::*;
use accounts::*;
use data_encoding::BASE64URL_NOPAD;
use nkeys::KeyPair;

const NONCE: &[u8] = b"a nonce of this connection";

fn peer() -> Peer<'static> {
    Peer { nonce: NONCE, connection: ConnectionType::Standard, certificate: None, address: None }
}

fn login<'a>(user: &'a str, password: &'a str) -> Credentials<'a> {
    Credentials { user, password, ..Default::default() }
}

fn user(name: &str, password: &str) -> UserSource {
    UserSource {
        login: Login::Password { user: name.into(), password: password.into() },
        permissions: None,
        connection_types: vec![],
        proxy_required: false,
    }
}

fn nkey_user(pair: &KeyPair) -> UserSource {
    UserSource { login: Login::Nkey(pair.public_key()), ..user("", "") }
}

fn table(source: AccountsSource) -> Table {
    Table::new(source, 0).unwrap()
}

fn with_users(users: Vec<UserSource>) -> AccountsSource {
    AccountsSource {
        authorization: AuthorizationSource { is_written: true, users, ..Default::default() },
        ..Default::default()
    }
}

fn ask(table: &Table, credentials: Credentials<'_>) -> Result<Identity, Reason> {
    table.authenticate(&credentials, &peer(), 0).map_err(|error| match error {
        AuthError::Refused(reason) => reason,
        other => panic!("{other}"),
    })
}

fn publish(list: &[&str]) -> PermissionsSource {
    let allow = Some(list.iter().map(|text| (*text).into()).collect());
    PermissionsSource { publish: Some(SubjectsSource { allow, deny: vec![] }), ..Default::default() }
}

#[test]
fn without_users_everybody_is_in_the_global_account() {
    let table = table(AccountsSource::default());
    assert!(!table.auth_required() && !table.auth_required_in_info() && !table.nonce_required());
    let identity = ask(&table, login("anybody", "x")).unwrap();
    assert_eq!((&*identity.account_name, identity.user.as_str()), (GLOBAL_ACCOUNT, "anybody"));
    assert!(identity.permissions.is_none());
    assert_eq!(&*table.account(table.system_account().unwrap()).unwrap().name, SYSTEM_ACCOUNT);
    let without = AccountsSource { no_system_account: true, ..Default::default() };
    assert!(Table::new(without, 0).unwrap().system_account().is_none());
}

#[test]
fn users_need_their_password() {
    let hash = bcrypt::hash("secret", 4).unwrap();
    let table = table(with_users(vec![user("plain", "pw"), user("hashed", &hash)]));
    assert!(table.auth_required() && table.auth_required_in_info());
    assert_eq!(ask(&table, login("plain", "pw")).unwrap().user, "plain");
    assert_eq!(ask(&table, login("plain", "no")).unwrap_err(), Reason::WrongPassword);
    assert_eq!(ask(&table, login("nobody", "pw")).unwrap_err(), Reason::Unknown);
    assert_eq!(ask(&table, Credentials::default()).unwrap_err(), Reason::Unknown);
    assert!(ask(&table, login("hashed", "secret")).is_ok());
    assert_eq!(ask(&table, login("hashed", &hash)).unwrap_err(), Reason::WrongPassword);
    assert!(table.is_slow(&login("hashed", "")) && !table.is_slow(&login("plain", "")));
}

#[test]
fn a_single_user_or_a_token() {
    let authorization = AuthorizationSource { user: Some(("joe".into(), "pw".into())), ..Default::default() };
    let single = table(AccountsSource { authorization, ..Default::default() });
    assert!(ask(&single, login("joe", "pw")).is_ok());
    assert_eq!(ask(&single, login("jim", "pw")).unwrap_err(), Reason::Unknown);
    assert_eq!(ask(&single, login("joe", "")).unwrap_err(), Reason::WrongPassword);
    let authorization = AuthorizationSource { token: Some("t0ken".into()), ..Default::default() };
    let token = table(AccountsSource { authorization, ..Default::default() });
    let identity = ask(&token, Credentials { token: "t0ken", ..Default::default() }).unwrap();
    assert_eq!(identity.user, "[REDACTED]");
    assert_eq!(
        ask(&token, Credentials { token: "other", ..Default::default() }).unwrap_err(),
        Reason::WrongPassword
    );
    assert_eq!(ask(&token, Credentials::default()).unwrap_err(), Reason::WrongPassword);
}

#[test]
fn a_signature_counts_for_its_nonce_and_key_only() {
    let (pair, other) = (KeyPair::new_user(), KeyPair::new_user());
    let table = table(with_users(vec![nkey_user(&pair)]));
    assert!(table.nonce_required());
    let key = pair.public_key();
    let sign = |pair: &KeyPair, nonce: &[u8]| BASE64URL_NOPAD.encode(&pair.sign(nonce).unwrap());
    let ask_with =
        |key: &str, signature: &str| ask(&table, Credentials { nkey: key, signature, ..Default::default() });
    assert_eq!(ask_with(&key, &sign(&pair, NONCE)).unwrap().user, key);
    assert_eq!(ask_with(&key, &sign(&pair, b"replayed nonce")).unwrap_err(), Reason::Signature);
    assert_eq!(ask_with(&key, &sign(&other, NONCE)).unwrap_err(), Reason::Signature);
    assert_eq!(ask_with(&key, "").unwrap_err(), Reason::Signature);
    assert_eq!(ask_with(&other.public_key(), &sign(&other, NONCE)).unwrap_err(), Reason::Unknown);
    assert_eq!(ask(&table, login("x", "y")).unwrap_err(), Reason::Unknown);
}

#[test]
fn no_auth_user_takes_in_whoever_sends_nothing() {
    let mut source = with_users(vec![user("guest", "unknown"), user("joe", "pw")]);
    source.authorization.no_auth_user = Some("guest".into());
    let named = table(source.clone());
    assert!(named.auth_required() && !named.auth_required_in_info());
    assert_eq!(ask(&named, Credentials::default()).unwrap().user, "guest");
    assert_eq!(ask(&named, login("joe", "pw")).unwrap().user, "joe");
    assert_eq!(ask(&named, login("joe", "no")).unwrap_err(), Reason::WrongPassword);
    let pair = KeyPair::new_user();
    source.authorization.users.push(nkey_user(&pair));
    source.authorization.no_auth_user = Some(pair.public_key());
    assert_eq!(ask(&table(source.clone()), Credentials::default()).unwrap().user, pair.public_key());
    source.authorization.no_auth_user = Some("ghost".into());
    assert!(Table::new(source, 0).unwrap_err().to_string().contains("not present as user or nkey"));
}

#[test]
fn users_of_the_system_account_alone_shut_nobody_out() {
    let system =
        AccountSource { name: SYSTEM_ACCOUNT.into(), users: vec![user("admin", "pw")], ..Default::default() };
    let table = table(AccountsSource { accounts: vec![system], ..Default::default() });
    assert_eq!(&*ask(&table, Credentials::default()).unwrap().account_name, GLOBAL_ACCOUNT);
    // Seen on nats-server 2.15.2: what nobody asks for does not count, a password without a name does.
    assert!(ask(&table, Credentials { jwt: "x", nkey: "y", ..Default::default() }).is_ok());
    assert!(ask(&table, login("", "pw")).is_err());
    assert!(table.auth_required_in_info());
    assert_eq!(&*ask(&table, login("admin", "pw")).unwrap().account_name, SYSTEM_ACCOUNT);
    assert_eq!(ask(&table, login("admin", "")).unwrap_err(), Reason::WrongPassword);
    assert_eq!(ask(&table, login("joe", "")).unwrap_err(), Reason::Unknown);
}

#[test]
fn users_belong_to_accounts_and_take_their_defaults() {
    let mut own = user("own", "pw");
    own.permissions = Some(publish(&["own"]));
    let account = AccountSource {
        name: "A".into(),
        users: vec![own, user("default", "pw")],
        default_permissions: Some(publish(&["default"])),
        limits: AccountLimits { subscriptions_max: Some(7), ..Default::default() },
        ..Default::default()
    };
    let table = table(AccountsSource { accounts: vec![account], ..Default::default() });
    let own = ask(&table, login("own", "pw")).unwrap();
    assert_eq!(&*own.account_name, "A");
    assert_eq!(own.limits.subscriptions_max, Some(7));
    let can =
        |identity: &Identity, subject: &[u8]| identity.permissions.as_ref().unwrap().can_publish(subject);
    assert!(can(&own, b"own") && !can(&own, b"default"));
    let default = ask(&table, login("default", "pw")).unwrap();
    assert!(!can(&default, b"own") && can(&default, b"default"));
}

#[test]
fn connection_types_are_kept() {
    let mut mqtt = user("mqtt", "pw");
    mqtt.connection_types = vec!["mqtt".into(), "IN_PROCESS".into()];
    let mut source = with_users(vec![mqtt]);
    let table = table(source.clone());
    assert_eq!(ask(&table, login("mqtt", "pw")).unwrap_err(), Reason::ConnectionType);
    let inside = Peer { connection: ConnectionType::InProcess, ..peer() };
    assert!(table.authenticate(&login("mqtt", "pw"), &inside, 0).is_ok());
    source.authorization.users[0].connection_types = vec!["CARRIER_PIGEON".into()];
    let error = Table::new(source, 0).unwrap_err();
    assert_eq!(error, Error::ConnectionType("CARRIER_PIGEON".into()));
}

#[test]
fn certificates_name_users() {
    let mut source =
        with_users(vec![user("joe@example.org", ""), user("CN=jane,O=Acme", ""), user("O=X,CN=jim", "")]);
    source.authorization.verify_and_map = true;
    let table = table(source);
    let ask = |names: Option<&CertificateNames>| {
        table
            .authenticate(&Credentials::default(), &Peer { certificate: names, ..peer() }, 0)
            .map(|found| found.user)
    };
    let subject = |parts: &[(&str, &str)]| CertificateNames {
        subject: parts.iter().map(|(kind, value)| vec![((*kind).into(), (*value).into())]).collect(),
        ..Default::default()
    };
    let joe = CertificateNames { emails: vec!["x@y".into(), "joe@example.org".into()], ..Default::default() };
    assert_eq!(ask(Some(&joe)).unwrap(), "joe@example.org");
    assert_eq!(ask(Some(&subject(&[("2.5.4.10", "Acme"), ("2.5.4.3", "jane")]))).unwrap(), "CN=jane,O=Acme");
    assert_eq!(ask(Some(&subject(&[("2.5.4.10", "X"), ("2.5.4.3", "jim")]))).unwrap(), "O=X,CN=jim");
    for nobody in [None, Some(&subject(&[("2.5.4.3", "jack")])), Some(&CertificateNames::default())] {
        assert_eq!(ask(nobody).unwrap_err(), AuthError::Refused(Reason::Certificate));
    }
}

#[test]
fn trusted_proxies_sign_the_nonce() {
    let (proxy, stranger) = (KeyPair::new_server(), KeyPair::new_server());
    let mut behind = user("behind", "pw");
    behind.proxy_required = true;
    let mut source = with_users(vec![behind, user("open", "pw")]);
    source.authorization.trusted_proxies = vec![proxy.public_key()];
    let table = table(source);
    let through = |pair: &KeyPair, nonce: &[u8], name: &str| {
        let signature = BASE64URL_NOPAD.encode(&pair.sign(nonce).unwrap());
        ask(&table, Credentials { proxy_signature: &signature, ..login(name, "pw") })
    };
    assert_eq!(through(&proxy, NONCE, "behind").unwrap().proxy_key, Some(proxy.public_key()));
    assert_eq!(through(&stranger, NONCE, "open").unwrap_err(), Reason::ProxyNotTrusted);
    assert_eq!(through(&proxy, b"old", "behind").unwrap_err(), Reason::ProxyNotTrusted);
    assert_eq!(ask(&table, login("behind", "pw")).unwrap_err(), Reason::ProxyRequired);
    assert_eq!(ask(&table, login("open", "pw")).unwrap().proxy_key, None);
}

#[test]
fn configuration_that_cannot_be_is_refused_by_name() {
    let account = |name: &str| AccountSource { name: name.into(), ..Default::default() };
    let refused = |source: AccountsSource| Table::new(source, 0).unwrap_err().to_string();
    let accounts = |accounts: Vec<AccountSource>| AccountsSource { accounts, ..Default::default() };
    assert_eq!(refused(accounts(vec![account("$G")])), r#""$G" is a Reserved Account"#);
    assert_eq!(refused(accounts(vec![account("A"), account("A")])), "Duplicate Account Entry: A");
    assert_eq!(refused(with_users(vec![user("a", ""), user("a", "")])), r#"Duplicate user "a" detected"#);
    let system_account = Some("NONE".into());
    let text = refused(AccountsSource { system_account, ..Default::default() });
    assert_eq!(text, r#""NONE" account not defined for system_account"#);
    let mut bad = user("a", "");
    bad.permissions = Some(publish(&["a..b"]));
    assert_eq!(
        refused(with_users(vec![bad])),
        r#"invalid permissions for user "a": subject "a..b" is not a valid subject"#
    );
    let nkey = UserSource { login: Login::Nkey("UABC".into()), ..user("", "") };
    assert_eq!(refused(with_users(vec![nkey])), r#"Not a valid public nkey for a user: "UABC""#);
}

fn stream_export(subject: &str) -> StreamExportSource {
    StreamExportSource { subject: subject.into(), ..Default::default() }
}

fn stream_import(account: &str, subject: &str) -> StreamImportSource {
    StreamImportSource { account: account.into(), subject: subject.into(), ..Default::default() }
}

fn service_export(subject: &str) -> ServiceExportSource {
    ServiceExportSource { subject: subject.into(), ..Default::default() }
}

fn service_import(account: &str, subject: &str, to: &str) -> ServiceImportSource {
    ServiceImportSource {
        account: account.into(),
        subject: subject.into(),
        to: to.into(),
        ..Default::default()
    }
}

#[test]
fn imports_need_exports_that_admit_them() {
    let private = AccessSource { accounts: vec!["B".into()], ..Default::default() };
    let exporter = AccountSource {
        name: "A".into(),
        stream_exports: vec![
            stream_export("public.>"),
            StreamExportSource { subject: "private.>".into(), access: private },
        ],
        service_exports: vec![ServiceExportSource {
            response_type: ResponseType::Stream,
            ..service_export("svc.*")
        }],
        ..Default::default()
    };
    let build = |name: &str, streams: Vec<StreamImportSource>, services: Vec<ServiceImportSource>| {
        let importer = AccountSource {
            name: name.into(),
            stream_imports: streams,
            service_imports: services,
            ..Default::default()
        };
        let other = AccountSource { name: if name == "B" { "C" } else { "B" }.into(), ..Default::default() };
        Table::new(
            AccountsSource { accounts: vec![exporter.clone(), importer, other], ..Default::default() },
            0,
        )
    };
    let table =
        build("B", vec![stream_import("A", "private.x")], vec![service_import("A", "svc.*", "ask.$1")])
            .unwrap();
    let importer = table.account(table.find("B").unwrap()).unwrap();
    assert_eq!(importer.imports.streams[0].account, table.find("A").unwrap());
    let service = &importer.imports.services[0];
    assert_eq!(
        (&*service.from, &*service.to, service.response_type),
        ("ask.*", "svc.*", ResponseType::Stream)
    );
    let mut out = vec![];
    service.remote(b"ask.me", &mut out);
    assert_eq!(out, b"svc.me");

    let error = |table: Result<Table, Error>| match table.unwrap_err() {
        Error::Exchange { reason, .. } => *reason,
        other => panic!("{other}"),
    };
    assert_eq!(
        error(build("C", vec![stream_import("A", "private.x")], vec![])),
        ExchangeError::StreamNotAuthorized
    );
    assert_eq!(error(build("C", vec![stream_import("A", ">")], vec![])), ExchangeError::StreamNotAuthorized);
    assert_eq!(
        error(build("C", vec![], vec![service_import("A", "other", "")])),
        ExchangeError::ServiceNotAuthorized
    );
    let twice = vec![stream_import("A", "public.x"), stream_import("A", "public.x")];
    assert_eq!(error(build("C", twice, vec![])), ExchangeError::DuplicateStream);
    let twice = vec![service_import("A", "svc.a", "x"), service_import("A", "svc.b", "x")];
    assert!(matches!(error(build("C", vec![], twice)), ExchangeError::DuplicateService { .. }));
    assert!(matches!(
        build("C", vec![stream_import("NONE", "a")], vec![]).unwrap_err(),
        Error::UnknownAccount { .. }
    ));
}

#[test]
fn cycles_are_refused() {
    let account = |name: &str, next: &str| AccountSource {
        name: name.into(),
        service_exports: vec![service_export("help")],
        stream_exports: vec![stream_export("news.>")],
        service_imports: vec![service_import(next, "help", "")],
        ..Default::default()
    };
    let ring = vec![account("A", "B"), account("B", "C"), account("C", "A")];
    let error = Table::new(AccountsSource { accounts: ring.clone(), ..Default::default() }, 0).unwrap_err();
    assert!(error.to_string().ends_with("import forms a cycle"), "{error}");
    let mut streams = ring;
    for (account, next) in streams.iter_mut().zip(["B", "C", "A"]) {
        account.service_imports.clear();
        account.stream_imports = vec![stream_import(next, "news.>")];
    }
    let error =
        Table::new(AccountsSource { accounts: streams.clone(), ..Default::default() }, 0).unwrap_err();
    assert!(error.to_string().ends_with("import forms a cycle"), "{error}");
    streams[2].stream_imports.clear();
    assert!(Table::new(AccountsSource { accounts: streams, ..Default::default() }, 0).is_ok());
}

#[test]
fn every_account_may_ask_the_system_account_about_itself_only() {
    let account = |name: &str| AccountSource { name: name.into(), ..Default::default() };
    let accounts = vec![account("A"), account("B")];
    let table = table(AccountsSource { accounts, ..Default::default() });
    let imports = &table.account(table.find("A").unwrap()).unwrap().imports.services;
    let to: Vec<(&str, &str)> = imports.iter().map(|import| (&*import.from, &*import.to)).collect();
    assert_eq!(
        to,
        [
            ("$SYS.REQ.USER.INFO", "$SYS.REQ.USER.A.INFO"),
            ("$SYS.REQ.ACCOUNT.PING.CONNZ", "$SYS.REQ.ACCOUNT.A.CONNZ"),
            ("$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.ACCOUNT.A.CONNZ"),
            ("$SYS.REQ.ACCOUNT.PING.STATZ", "$SYS.REQ.ACCOUNT.A.STATZ"),
        ]
    );
    let spying = |subject: &str| {
        let mut spy = account("A");
        spy.service_imports = vec![service_import("$SYS", subject, "x")];
        Table::new(AccountsSource { accounts: vec![spy, account("$SYS")], ..Default::default() }, 0).is_ok()
    };
    assert!(!spying("$SYS.REQ.ACCOUNT.B.CONNZ") && !spying("$SYS.REQ.SERVER.PING"));
}

#[test]
fn accounts_keep_their_numbers_over_reloads() {
    let source = |names: &[&str]| AccountsSource {
        accounts: names
            .iter()
            .map(|name| AccountSource { name: (*name).into(), ..Default::default() })
            .collect(),
        ..Default::default()
    };
    let first = table(source(&["A", "B"]));
    let second = first.with_source(source(&["C", "B"]), 0).unwrap();
    for name in ["$G", "$SYS", "B", "A"] {
        assert_eq!(first.find(name), second.find(name), "{name}");
    }
    assert!(second.account(second.find("A").unwrap()).unwrap().is_removed);
    assert_eq!(second.find("C").unwrap().index(), second.accounts().len() - 1);
    let third = second.with_source(source(&["A"]), 0).unwrap();
    assert!(!third.account(first.find("A").unwrap()).unwrap().is_removed);
}
