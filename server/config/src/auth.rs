//! `authorization { … }` blocks and lists of users. Owns their keys and what excludes what; checks no
//! password.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::error::Position;
use crate::grammar::Value;
use crate::nkey::{KeyKind, public_key_kind};
use crate::permissions::{self, Permissions};
use crate::reader::{Field, Reader, assign};
use crate::tree::Tree;

/// Who may connect: one user, one token, or a list of users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authorization {
    /// Whether the block was written at all.
    pub defined: bool,
    /// The only user.
    pub username: Option<String>,
    /// Its password, plain or a bcrypt hash (`$2a$…`).
    pub password: Option<String>,
    /// The only token, plain or a bcrypt hash.
    pub token: Option<String>,
    /// Time for a client's credentials; [`crate::Settings::auth_timeout`] has the default.
    pub timeout: Option<Duration>,
    /// Users of the global account, in the order written.
    pub users: Vec<User>,
    /// Whether a list of users was written, even an empty one.
    pub users_defined: bool,
    /// Permissions of users that have none of their own.
    pub default_permissions: Option<Permissions>,
    /// A service that decides about clients.
    pub auth_callout: Option<AuthCallout>,
    /// Clients must come through a trusted proxy.
    pub proxy_required: bool,
}

impl Authorization {
    /// What a user of this block may do; `None`: everything.
    pub fn permissions_of<'a>(&'a self, user: &'a User) -> Option<&'a Permissions> {
        user.permissions.as_ref().or(self.default_permissions.as_ref())
    }
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// How it proves to be itself.
    pub credential: Credential,
    /// What it may do; `None`: what its block's `default_permissions` say.
    pub permissions: Option<Permissions>,
    /// Kinds of connections it may use; empty: any.
    pub allowed_connection_types: BTreeSet<ConnectionType>,
    /// It must come through a trusted proxy.
    pub proxy_required: bool,
    /// Where it was written, for messages; not part of a comparison.
    pub position: Place,
}

impl User {
    /// The name it is unique by: user name or public key.
    pub fn name(&self) -> &str {
        match &self.credential {
            Credential::Password { username, .. } => username,
            Credential::Nkey(key) => key,
        }
    }
}

/// How a user proves to be itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A name and a password, plain or a bcrypt hash; an empty password is one.
    Password {
        /// The name.
        username: String,
        /// The password.
        password: String,
    },
    /// A public key (`U…`); the client signs the server's nonce.
    Nkey(String),
}

/// A place that does not count in comparisons.
#[derive(Clone, Debug, Default)]
pub struct Place(pub Option<Position>);

impl PartialEq for Place {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Place {}

/// Kinds of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum ConnectionType {
    Standard,
    Websocket,
    Leafnode,
    LeafnodeWs,
    Mqtt,
    MqttWs,
    InProcess,
}

impl ConnectionType {
    const ALL: [ConnectionType; 7] = [
        ConnectionType::Standard,
        ConnectionType::Websocket,
        ConnectionType::Leafnode,
        ConnectionType::LeafnodeWs,
        ConnectionType::Mqtt,
        ConnectionType::MqttWs,
        ConnectionType::InProcess,
    ];

    /// The word for it in nats.conf and in JWTs.
    pub fn name(self) -> &'static str {
        match self {
            ConnectionType::Standard => "STANDARD",
            ConnectionType::Websocket => "WEBSOCKET",
            ConnectionType::Leafnode => "LEAFNODE",
            ConnectionType::LeafnodeWs => "LEAFNODE_WS",
            ConnectionType::Mqtt => "MQTT",
            ConnectionType::MqttWs => "MQTT_WS",
            ConnectionType::InProcess => "IN_PROCESS",
        }
    }
}

/// A service that decides about clients (ADR-26).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthCallout {
    /// Public account key that signs the service's answers.
    pub issuer: String,
    /// Account that the service listens in; `$G` unless written.
    pub account: String,
    /// Users that are not asked about, by name or public key. At least one: the service's own.
    pub auth_users: Vec<String>,
    /// Public curve key that requests are encrypted for.
    pub xkey: Option<String>,
    /// Accounts that the service may put clients in; empty: all.
    pub allowed_accounts: Vec<String>,
}

pub(crate) const KEYS: &[&str] = &[
    "user",
    "username",
    "pass",
    "password",
    "token",
    "timeout",
    "users",
    "default_permission",
    "default_permissions",
    "permissions",
    "auth_callout",
    "auth_hook",
    "proxy_required",
];

/// A timeout beyond this is more likely a mistake.
const TIMEOUT_DOUBTFUL: Duration = Duration::from_secs(60);

/// Reads a block; `None` if it could not be read at all.
pub(crate) fn read(block: &Field<'_>, reader: &mut Reader) -> Option<Authorization> {
    let map = block.map(reader)?;
    let mut auth = Authorization { defined: true, ..Authorization::default() };
    for field in reader.fields(map) {
        match field.key.as_str() {
            "user" | "username" => assign(&mut auth.username, field.optional(reader)),
            "pass" | "password" => assign(&mut auth.password, field.optional(reader)),
            "token" => assign(&mut auth.token, field.optional(reader)),
            "timeout" => auth.timeout = timeout(&field, reader),
            "users" => {
                auth.users_defined = true;
                assign(&mut auth.users, users(&field, reader));
            }
            "default_permission" | "default_permissions" | "permissions" => {
                auth.default_permissions = permissions::read(&field, reader);
            }
            "auth_callout" | "auth_hook" => auth.auth_callout = callout(&field, reader),
            "proxy_required" => assign(&mut auth.proxy_required, field.boolean(reader)),
            _ => reader.unknown(&field, KEYS),
        }
    }
    Some(auth)
}

/// What excludes what among one client's credentials.
pub(crate) fn check(block: &Field<'_>, auth: &Authorization, reader: &mut Reader) {
    let single = auth.username.is_some() || auth.password.is_some();
    if single && auth.token.is_some() {
        block.problem(reader, "Cannot have a user/pass and token");
    } else if auth.users_defined && auth.username.is_some() {
        block.problem(reader, "Can not have a single user/pass and a users array");
    } else if auth.users_defined && auth.token.is_some() {
        block.problem(reader, "Can not have a token and a users array");
    }
}

fn timeout(field: &Field<'_>, reader: &mut Reader) -> Option<Duration> {
    let timeout = field.timeout(reader)?;
    if timeout > TIMEOUT_DOUBTFUL {
        reader.warn(
            field.position(),
            format!(
                "invalid use of field {:?}: timeout of {} seconds is high, consider keeping it under 60 seconds. \
                 possibly caused by unquoted duration; use '1m' instead of 1m, for example",
                field.written,
                timeout.as_secs_f64()
            ),
        );
    }
    Some(timeout).filter(|t| !t.is_zero())
}

const USER_KEYS: &[&str] = &[
    "nkey",
    "user",
    "username",
    "pass",
    "password",
    "permission",
    "permissions",
    "authorization",
    "allowed_connection_types",
    "connection_types",
    "clients",
    "proxy_required",
];

/// Reads a list of users.
pub(crate) fn users(field: &Field<'_>, reader: &mut Reader) -> Option<Vec<User>> {
    let mut users = Vec::new();
    for node in field.array(reader)? {
        let Value::Map(map) = &node.value else {
            reader.problem(
                &node.position,
                format!("Expected user entry to be a map/struct, found {}", node.value.kind()),
            );
            continue;
        };
        let (mut nkey, mut username, mut password) = (None, None, None);
        let mut user = User {
            credential: Credential::Nkey(String::new()),
            permissions: None,
            allowed_connection_types: BTreeSet::new(),
            proxy_required: false,
            position: Place(Some(node.position.clone())),
        };
        for part in reader.fields(map) {
            match part.key.as_str() {
                "nkey" => nkey = part.optional(reader).flatten(),
                "user" | "username" => username = part.optional(reader).flatten(),
                "pass" | "password" => password = part.optional(reader).flatten(),
                "permission" | "permissions" | "authorization" => {
                    user.permissions = permissions::read(&part, reader)
                }
                "allowed_connection_types" | "connection_types" | "clients" => {
                    assign(&mut user.allowed_connection_types, connection_types(&part, reader));
                }
                "proxy_required" => assign(&mut user.proxy_required, part.boolean(reader)),
                _ => reader.unknown(&part, USER_KEYS),
            }
        }
        let position = &node.position;
        user.credential = match (nkey, username) {
            (Some(_), Some(_)) => {
                reader.problem(position, "Nkey users do not take usernames or passwords");
                continue;
            }
            (Some(_), None) if password.is_some() => {
                reader.problem(position, "Nkey users do not take usernames or passwords");
                continue;
            }
            (Some(key), None) => {
                if public_key_kind(&key) != Some(KeyKind::User) {
                    reader.problem(
                        position,
                        format!("Not a valid public nkey for a user: {key:?}; it starts with U"),
                    );
                }
                Credential::Nkey(key)
            }
            (None, Some(username)) => {
                Credential::Password { username, password: password.unwrap_or_default() }
            }
            (None, None) => {
                reader.problem(position, "User entry requires a user: give it a \"user\" or an \"nkey\"");
                continue;
            }
        };
        users.push(user);
    }
    Some(users)
}

fn connection_types(field: &Field<'_>, reader: &mut Reader) -> Option<BTreeSet<ConnectionType>> {
    let names = field.strings(reader)?;
    let mut types = BTreeSet::new();
    for name in names {
        match ConnectionType::ALL.into_iter().find(|t| t.name().eq_ignore_ascii_case(&name)) {
            Some(found) => {
                types.insert(found);
            }
            None => {
                let known: Vec<&str> = ConnectionType::ALL.iter().map(|t| t.name()).collect();
                field.problem(reader, format!("unknown connection type {name:?}; use {}", known.join(", ")));
            }
        }
    }
    Some(types)
}

const CALLOUT_KEYS: &[&str] =
    &["issuer", "account", "acc", "auth_users", "users", "xkey", "key", "allowed_accounts"];

fn callout(block: &Field<'_>, reader: &mut Reader) -> Option<AuthCallout> {
    let map = block.map(reader)?;
    let mut callout = AuthCallout {
        issuer: String::new(),
        account: crate::settings::GLOBAL_ACCOUNT.into(),
        auth_users: Vec::new(),
        xkey: None,
        allowed_accounts: Vec::new(),
    };
    for field in reader.fields(map) {
        match field.key.as_str() {
            "issuer" => {
                assign(&mut callout.issuer, field.string(reader));
                if public_key_kind(&callout.issuer) != Some(KeyKind::Account) {
                    let message = format!(
                        "Expected callout issuer to be a valid public account nkey, got {:?}",
                        callout.issuer
                    );
                    field.problem(reader, message);
                }
            }
            "account" | "acc" => {
                if let Some(Some(account)) = field.optional(reader) {
                    callout.account = account;
                }
            }
            "auth_users" | "users" => assign(&mut callout.auth_users, field.strings(reader)),
            "xkey" | "key" => {
                callout.xkey = field.string(reader);
                if callout.xkey.as_deref().and_then(public_key_kind) != Some(KeyKind::Curve) {
                    field
                        .problem(reader, "Expected callout xkey to be a valid public xkey; it starts with X");
                }
            }
            "allowed_accounts" => assign(&mut callout.allowed_accounts, field.strings(reader)),
            _ if field.node.is_variable => {}
            _ => {
                let near = crate::reader::nearest(&field.key, CALLOUT_KEYS);
                let hint = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
                field.problem(
                    reader,
                    format!("Unknown field {:?} parsing authorization callout{hint}", field.written),
                );
            }
        }
    }
    if map.find("issuer").is_none() && callout.issuer.is_empty() {
        block.problem(reader, "Authorization callouts require an issuer to be specified");
    }
    if callout.auth_users.is_empty() {
        block.problem(reader, "Authorization callouts require authorized users to be specified");
    }
    Some(callout)
}

impl Authorization {
    pub(crate) fn tree(&self) -> Tree {
        let mut tree = Tree::default();
        tree.optional("user", &self.username);
        tree.optional("password", &self.password);
        tree.optional("token", &self.token);
        tree.optional_duration("timeout", self.timeout);
        if self.users_defined && self.users.is_empty() {
            tree.put("users", Value::Array(Vec::new()));
        }
        tree.trees("users", self.users.iter().map(User::tree).collect());
        if let Some(permissions) = &self.default_permissions {
            tree.tree_even_empty("default_permissions", permissions.tree("publish", "subscribe"));
        }
        if let Some(callout) = &self.auth_callout {
            let mut inner = Tree::default();
            inner.string("issuer", &callout.issuer);
            inner.string("account", &callout.account);
            inner.strings("auth_users", &callout.auth_users);
            inner.optional("xkey", &callout.xkey);
            inner.strings("allowed_accounts", &callout.allowed_accounts);
            tree.tree("auth_callout", inner);
        }
        tree.boolean("proxy_required", self.proxy_required, false);
        tree
    }
}

impl User {
    pub(crate) fn tree(&self) -> Tree {
        let mut tree = Tree::default();
        match &self.credential {
            Credential::Password { username, password } => {
                tree.string("user", username);
                if !password.is_empty() {
                    tree.string("password", password);
                }
            }
            Credential::Nkey(key) => tree.string("nkey", key),
        }
        if let Some(permissions) = &self.permissions {
            tree.tree_even_empty("permissions", permissions.tree("publish", "subscribe"));
        }
        let types: Vec<String> = self.allowed_connection_types.iter().map(|t| t.name().to_string()).collect();
        tree.strings("allowed_connection_types", &types);
        tree.boolean("proxy_required", self.proxy_required, false);
        tree
    }
}
