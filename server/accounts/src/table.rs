//! The table: accounts and users, ready to be asked.
//!
//! Owns the answer to "who is this client". Building it is in `build`; JWT users are in `crate::jwt`.

mod build;

use crate::callout;
use crate::exchange::{Exports, Imports};
use crate::jwt::AccountClaims;
use crate::jwt::user::Trust;
use crate::secret::{Secret, is_signed};
use crate::source::{AccountLimits, AccountsSource};
use crate::{
    AuthError, CalloutSource, CertificateNames, ConnectionType, Credentials, Mappings, Peer, Permissions,
    Reason, jwt,
};
use jiff::tz::TimeZone;
use std::collections::HashMap;
use std::sync::Arc;

/// The account of clients without one.
pub const GLOBAL_ACCOUNT: &str = "$G";
/// The default system account.
pub const SYSTEM_ACCOUNT: &str = "$SYS";

/// An account's number. Tables built from one another number accounts alike, and never reuse a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(u32);

impl AccountId {
    /// The account with this place in [`Table::accounts`].
    pub fn from_index(index: usize) -> AccountId {
        AccountId(index as u32)
    }

    /// The account's place in [`Table::accounts`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One compiled account.
#[derive(Debug)]
pub struct Account {
    /// Its number.
    pub id: AccountId,
    /// Its name: in operator mode its public key.
    pub name: Arc<str>,
    /// Bounds.
    pub limits: AccountLimits,
    /// What clients publish is rewritten by these.
    pub mappings: Mappings,
    /// What others may import.
    pub exports: Exports,
    /// What it imports.
    pub imports: Imports,
    /// Where traces of messages go that somebody else's tracing asks for.
    pub trace: Option<crate::TraceSource>,
    /// It was in an earlier table and is gone: nobody may stay in it.
    pub is_removed: bool,
    default_permissions: Option<Arc<Permissions>>,
    claims: Option<Arc<AccountClaims>>,
}

impl Account {
    /// The account's token, in operator mode.
    pub fn claims(&self) -> Option<&Arc<AccountClaims>> {
        self.claims.as_ref()
    }

    /// Permissions of users who have none of their own.
    pub fn default_permissions(&self) -> Option<&Arc<Permissions>> {
        self.default_permissions.as_ref()
    }

    /// When its token expires, in seconds since 1970: its clients are to be closed then.
    pub fn expires_seconds(&self) -> Option<i64> {
        self.claims.as_ref().map(|claims| claims.expires).filter(|expires| *expires > 0)
    }
}

/// Bounds of one connection; `None` is no bound beyond the server's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Open subscriptions.
    pub subscriptions_max: Option<u32>,
    /// Bytes of a message.
    pub payload_bytes_max: Option<u32>,
}

impl ConnectionLimits {
    pub(crate) fn of(limits: &AccountLimits) -> ConnectionLimits {
        ConnectionLimits {
            subscriptions_max: limits.subscriptions_max,
            payload_bytes_max: limits.payload_bytes_max,
        }
    }

    /// The tighter of both.
    pub(crate) fn within(self, limits: &AccountLimits) -> ConnectionLimits {
        let tighter = |a: Option<u32>, b: Option<u32>| a.into_iter().chain(b).min();
        ConnectionLimits {
            subscriptions_max: tighter(self.subscriptions_max, limits.subscriptions_max),
            payload_bytes_max: tighter(self.payload_bytes_max, limits.payload_bytes_max),
        }
    }
}

/// Who a client is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its account. The account's bound on connections is the caller's to keep.
    pub account: AccountId,
    /// Name of the account.
    pub account_name: Arc<str>,
    /// As /connz shows it (`authorized_user`); empty for nobody in particular.
    pub user: String,
    /// What it may do; `None` for everything.
    pub permissions: Option<Arc<Permissions>>,
    /// Bounds of the user and the account together.
    pub limits: ConnectionLimits,
    /// When it must go (`User Authentication Expired`), in nanoseconds since 1970.
    pub expires_unix_nanos: Option<u64>,
    /// When its account's token expires (`Account Authentication Expired`), in nanoseconds since 1970.
    pub account_expires_unix_nanos: Option<u64>,
    /// Its permissions are the account's own, because its token has none: they change with the account's.
    pub has_default_permissions: bool,
    /// A callout service said so.
    pub by_callout: bool,
    /// More of users that came by JWT.
    pub token: Option<Box<UserToken>>,
    /// Key of the trusted proxy it came through.
    pub proxy_key: Option<String>,
}

/// What monitoring shows of a user's JWT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserToken {
    /// The token.
    pub jwt: String,
    /// Whoever holds the token is let in: it must not be shown.
    pub is_bearer: bool,
    /// The user's key.
    pub public_key: String,
    /// Key that signed it (`issuer_key`).
    pub signing_key: String,
    /// `name_tag`.
    pub name: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Seconds since 1970.
    pub issued_at_seconds: i64,
}

/// One configured user.
#[derive(Debug)]
struct User {
    account: AccountId,
    secret: Secret,
    permissions: Option<Arc<Permissions>>,
    connections: Vec<ConnectionType>,
    proxy_required: bool,
}

impl User {
    fn allows(&self, connection: ConnectionType) -> bool {
        self.connections.is_empty() || self.connections.contains(&connection)
    }
}

/// The one user or token of a server without a list of users.
#[derive(Debug)]
enum Single {
    Nobody,
    Token(Secret),
    User(String, Secret),
}

/// Users of one kind, by name or key.
type Users = HashMap<String, User>;

/// Accounts and users. Immutable; see the crate's head.
#[derive(Debug)]
pub struct Table {
    source: Arc<AccountsSource>,
    accounts: Vec<Arc<Account>>,
    by_name: HashMap<Arc<str>, AccountId>,
    system_account: Option<AccountId>,
    users: Users,
    nkeys: Users,
    single: Single,
    /// Clients without credentials are clients of `$G`, although there are users: those of the system
    /// account only.
    anonymous: bool,
    trust: Option<Trust>,
    claims: HashMap<String, (Arc<str>, Arc<AccountClaims>)>,
    /// When the first activation of an import expires.
    activation_expires_seconds: Option<i64>,
    notes: Vec<String>,
}

impl Default for Table {
    /// Nobody is configured: everybody is a client of `$G`.
    fn default() -> Self {
        Table::new(AccountsSource::default(), 0).expect("nothing configured cannot contradict itself")
    }
}

impl Table {
    /// Builds a table. In operator mode, tokens of accounts in `source` that are not valid at `now` are left
    /// out; [`Table::notes`] says so.
    ///
    /// # Errors
    /// See [`crate::Error`]: the first thing in `source` that cannot be.
    pub fn new(source: AccountsSource, now_unix_nanos: u64) -> Result<Table, crate::Error> {
        build::table(Arc::new(source), None, now_unix_nanos)
    }

    /// Builds a table from new configuration to take the place of this one: accounts keep their numbers, and
    /// tokens of accounts that were added since stay unless `source` has its own.
    ///
    /// # Errors
    /// See [`Table::new`].
    pub fn with_source(&self, source: AccountsSource, now_unix_nanos: u64) -> Result<Table, crate::Error> {
        build::table(Arc::new(source), Some(self), now_unix_nanos)
    }

    /// Operator mode: a table with this account added or its token replaced.
    ///
    /// # Errors
    /// [`crate::Error::Claims`] if the token is not valid, not of a trusted operator, or this is no operator
    /// mode.
    pub fn with_account(&self, token: &str, now_unix_nanos: u64) -> Result<Table, crate::Error> {
        let (changed, errors) = build::with_accounts(self, &[token.into()], now_unix_nanos)?;
        match (changed, errors.into_iter().next()) {
            (None, Some(error)) => Err(error),
            (changed, _) => Ok(changed.unwrap_or_default()),
        }
    }

    /// The table with these accounts, or their newer tokens, and what is wrong with others of the tokens; no table when
    /// that is all of them. Costs the time of one [`with_account`](Self::with_account), which grows with the accounts.
    ///
    /// # Errors
    /// There are no operators, or the accounts contradict the configuration.
    pub fn with_accounts(
        &self,
        tokens: &[Arc<str>],
        now_unix_nanos: u64,
    ) -> Result<(Option<Table>, Vec<crate::Error>), crate::Error> {
        build::with_accounts(self, tokens, now_unix_nanos)
    }

    /// Operator mode: a table without this account.
    ///
    /// # Errors
    /// See [`Table::new`].
    pub fn without_account(&self, name: &str, now_unix_nanos: u64) -> Result<Table, crate::Error> {
        build::without_account(self, name, now_unix_nanos)
    }

    /// When the first of the activation tokens expires by which accounts import, in seconds since 1970:
    /// [`Table::without_expired`] is due then.
    pub fn activation_expires_seconds(&self) -> Option<i64> {
        self.activation_expires_seconds
    }

    /// Operator mode: the table without the imports whose activation tokens have expired; `None` when none has.
    ///
    /// # Errors
    /// See [`Table::new`].
    pub fn without_expired(&self, now_unix_nanos: u64) -> Result<Option<Table>, crate::Error> {
        build::without_expired(self, now_unix_nanos)
    }

    /// What was left out and why, for the log.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether a client must bring credentials: for the server's own decisions and /varz.
    pub fn auth_required(&self) -> bool {
        self.trust.is_some()
            || !self.users.is_empty()
            || !self.nkeys.is_empty()
            || !matches!(self.single, Single::Nobody)
    }

    /// `auth_required` of INFO: false where `no_auth_user` lets clients without credentials in.
    pub fn auth_required_in_info(&self) -> bool {
        self.auth_required() && self.source.authorization.no_auth_user.is_none()
    }

    /// Whether INFO needs a nonce: where anybody may sign.
    pub fn nonce_required(&self) -> bool {
        self.trust.is_some()
            || !self.nkeys.is_empty()
            || !self.source.authorization.trusted_proxies.is_empty()
    }

    /// All accounts by number, removed ones included.
    pub fn accounts(&self) -> &[Arc<Account>] {
        &self.accounts
    }

    /// An account by number.
    pub fn account(&self, id: AccountId) -> Option<&Arc<Account>> {
        self.accounts.get(id.index())
    }

    /// An account's number by name.
    pub fn find(&self, name: &str) -> Option<AccountId> {
        self.by_name.get(name).copied()
    }

    /// The system account, unless there is none.
    pub fn system_account(&self) -> Option<AccountId> {
        self.system_account
    }

    /// Operator mode: accounts that imports name and nobody handed in. Fetch them and add them.
    pub fn missing_accounts(&self) -> Vec<String> {
        let wanted = self.claims.values().flat_map(|(_, claims)| &claims.nats.imports);
        let mut missing: Vec<String> = wanted
            .map(|import| &import.account)
            .filter(|account| !self.claims.contains_key(*account))
            .cloned()
            .collect();
        missing.sort();
        missing.dedup();
        missing
    }

    /// Operator mode: what [`Table::missing_accounts`] says, for the imports of one account.
    pub fn missing_for(&self, account: &str) -> Vec<String> {
        let Some((_, claims)) = self.claims.get(account) else { return Vec::new() };
        let wanted = claims.nats.imports.iter().map(|import| &import.account);
        let mut missing: Vec<String> =
            wanted.filter(|account| !self.claims.contains_key(*account)).cloned().collect();
        missing.sort();
        missing.dedup();
        missing
    }

    /// Whether accounts come by JWT.
    pub fn is_operator_mode(&self) -> bool {
        self.trust.is_some()
    }

    /// The tokens of the operators that are trusted.
    pub fn operators(&self) -> &[String] {
        &self.source.operators.operators
    }

    /// What these tokens say, as JSON.
    pub fn operator_claims(&self) -> Vec<serde_json::Value> {
        self.operators().iter().filter_map(|text| jwt::payload(text)).collect()
    }

    /// The token of an account, in operator mode.
    pub fn account_token(&self, name: &str) -> Option<&str> {
        self.claims.get(name).map(|(text, _)| &**text)
    }

    /// Whether [`Table::authenticate`] will compute a bcrypt hash, which takes tens of milliseconds: do it off
    /// the threads that move messages.
    pub fn is_slow(&self, credentials: &Credentials<'_>) -> bool {
        let user = if credentials.user.is_empty() { self.no_auth_user() } else { Some(credentials.user) };
        let listed = user.and_then(|user| self.users.get(user));
        listed.is_some_and(|user| user.secret.is_slow())
            || match &self.single {
                Single::Token(secret) | Single::User(_, secret) => secret.is_slow(),
                Single::Nobody => false,
            }
    }

    /// Decides who a client is. Pure and synchronous: to answer again after a reload, ask the new table with
    /// the same arguments.
    ///
    /// # Errors
    /// See [`AuthError`].
    pub fn authenticate(
        &self,
        credentials: &Credentials<'_>,
        peer: &Peer<'_>,
        now_unix_nanos: u64,
    ) -> Result<Identity, AuthError> {
        let proxy = self.proxy(credentials, peer)?;
        let identity = match &self.trust {
            Some(trust) => {
                let known =
                    jwt::user::authenticate(self, trust, credentials, peer, proxy.is_some(), now_unix_nanos);
                known.and_then(|identity| callout::by_token(self, identity))
            }
            None => {
                let result = self.authenticate_configured(credentials, peer, proxy.is_some());
                match &self.source.authorization.callout {
                    Some(source) => {
                        let lacks_proxy = matches!(result, Err(AuthError::Refused(Reason::ProxyRequired)));
                        let user = self.configured_user(credentials, peer);
                        callout::configured(self, source, result, user, lacks_proxy)
                    }
                    None => result,
                }
            }
        };
        identity.map(|identity| Identity { proxy_key: proxy, ..identity })
    }

    /// Name or key of the configured user that the client claims to be.
    fn configured_user<'a>(&'a self, credentials: &Credentials<'a>, peer: &Peer<'_>) -> Option<&'a str> {
        let mut credentials = *credentials;
        if let Some(key) = self.nkey(&mut credentials) {
            return self.nkeys.get_key_value(key).map(|(key, _)| key.as_str());
        }
        if !self.users.is_empty() {
            if self.source.authorization.verify_and_map {
                return self.certificate_user(peer).map(|(name, _)| name);
            }
            let sent = [credentials.user, credentials.password, credentials.token];
            let nothing = sent.iter().all(|text| text.is_empty());
            let name = if nothing { self.no_auth_user()? } else { credentials.user };
            return self.users.get_key_value(name).map(|(name, _)| name.as_str());
        }
        match &self.single {
            Single::User(name, _) if *name == credentials.user => Some(name),
            _ => None,
        }
    }

    pub(crate) fn trust(&self) -> Option<&Trust> {
        self.trust.as_ref()
    }

    pub(crate) fn callout_source(&self) -> Option<&CalloutSource> {
        self.source.authorization.callout.as_ref()
    }

    /// Zone of times in tokens that name none.
    pub(crate) fn time_zone(&self) -> TimeZone {
        let named = || TimeZone::get(self.source.time_zone.as_deref()?).ok();
        self.trust.as_ref().map(|trust| trust.time_zone.clone()).or_else(named).unwrap_or(TimeZone::UTC)
    }

    /// Whether the account has revoked a user's token issued then, in seconds since 1970.
    pub fn is_revoked(&self, account: &str, user_key: &str, issued_at_seconds: i64) -> bool {
        let claims = self.claims.get(account);
        claims.is_some_and(|(_, claims)| claims.nats.is_revoked(user_key, issued_at_seconds))
    }

    /// The key of the trusted proxy whose signature the client brings, if it brings one.
    fn proxy(&self, credentials: &Credentials<'_>, peer: &Peer<'_>) -> Result<Option<String>, AuthError> {
        let keys = &self.source.authorization.trusted_proxies;
        if credentials.proxy_signature.is_empty() || keys.is_empty() {
            return Ok(None);
        }
        let signer = keys.iter().find(|key| is_signed(key, peer.nonce, credentials.proxy_signature));
        signer.map(|key| Some(key.clone())).ok_or(Reason::ProxyNotTrusted.into())
    }

    fn authenticate_configured(
        &self,
        credentials: &Credentials<'_>,
        peer: &Peer<'_>,
        through_proxy: bool,
    ) -> Result<Identity, AuthError> {
        if !self.auth_required() {
            return self.global(credentials);
        }
        let mut credentials = *credentials;
        if let Some(key) = self.nkey(&mut credentials) {
            return self.authenticate_nkey(key, &credentials, peer, through_proxy);
        }
        if self.source.authorization.verify_and_map && !self.users.is_empty() {
            let (name, user) = self.certificate_user(peer).ok_or(Reason::Certificate)?;
            credentials.user = name;
            return self.authenticate_user(user, &credentials, through_proxy);
        }
        // A JWT or a key that nothing here asks for does not count as something sent.
        let without_name =
            [credentials.user, credentials.password, credentials.token].iter().all(|text| text.is_empty());
        if self.anonymous && without_name {
            return self.global(&credentials);
        }
        if without_name
            && let Some((name, user)) = self.no_auth_user().and_then(|name| self.users.get_key_value(name))
        {
            credentials.user = name;
            if !user.allows(peer.connection) {
                return Err(Reason::ConnectionType.into());
            }
            if user.proxy_required && !through_proxy {
                return Err(Reason::ProxyRequired.into());
            }
            return self.identity(user, &credentials);
        }
        if !credentials.user.is_empty() && !self.users.is_empty() {
            let user = self.users.get(credentials.user).ok_or(Reason::Unknown)?;
            if !user.allows(peer.connection) {
                return Err(Reason::ConnectionType.into());
            }
            return self.authenticate_user(user, &credentials, through_proxy);
        }
        self.authenticate_single(&credentials, through_proxy)
    }

    fn no_auth_user(&self) -> Option<&str> {
        self.source.authorization.no_auth_user.as_deref()
    }

    /// The key to authenticate, filled in for clients that send nothing where `no_auth_user` is a key.
    fn nkey<'a>(&'a self, credentials: &mut Credentials<'a>) -> Option<&'a str> {
        if self.nkeys.is_empty() {
            return None;
        }
        let sent = [credentials.user, credentials.password, credentials.token, credentials.nkey];
        if sent.iter().all(|text| text.is_empty())
            && let Some((key, _)) = self.no_auth_user().and_then(|name| self.nkeys.get_key_value(name))
        {
            credentials.nkey = key;
        }
        (!credentials.nkey.is_empty()).then_some(credentials.nkey)
    }

    fn authenticate_nkey(
        &self,
        key: &str,
        credentials: &Credentials<'_>,
        peer: &Peer<'_>,
        through_proxy: bool,
    ) -> Result<Identity, AuthError> {
        let user = self.nkeys.get(key).ok_or(Reason::Unknown)?;
        if !user.allows(peer.connection) {
            return Err(Reason::ConnectionType.into());
        }
        if user.proxy_required && !through_proxy {
            return Err(Reason::ProxyRequired.into());
        }
        if self.no_auth_user() != Some(key) && !is_signed(key, peer.nonce, credentials.signature) {
            return Err(Reason::Signature.into());
        }
        self.identity(user, credentials)
    }

    fn authenticate_user(
        &self,
        user: &User,
        credentials: &Credentials<'_>,
        through_proxy: bool,
    ) -> Result<Identity, AuthError> {
        if user.proxy_required && !through_proxy {
            return Err(Reason::ProxyRequired.into());
        }
        if !user.secret.matches(credentials.password) {
            return Err(Reason::WrongPassword.into());
        }
        self.identity(user, credentials)
    }

    fn authenticate_single(
        &self,
        credentials: &Credentials<'_>,
        through_proxy: bool,
    ) -> Result<Identity, AuthError> {
        if self.source.authorization.proxy_required && !through_proxy {
            return Err(Reason::ProxyRequired.into());
        }
        let matches = match &self.single {
            Single::Nobody => return Err(Reason::Unknown.into()),
            Single::Token(token) => token.matches(credentials.token),
            Single::User(name, _) if *name != credentials.user => return Err(Reason::Unknown.into()),
            Single::User(_, password) => password.matches(credentials.password),
        };
        if matches { self.global(credentials) } else { Err(Reason::WrongPassword.into()) }
    }

    /// The user a certificate names. Users who may not connect this way are not looked at.
    fn certificate_user(&self, peer: &Peer<'_>) -> Option<(&str, &User)> {
        let names: &CertificateNames = peer.certificate?;
        let by_name = |name: &str| {
            let found = self.users.get_key_value(name).filter(|(_, user)| user.allows(peer.connection));
            found.map(|(name, user)| (name.as_str(), user))
        };
        if let Some(found) = names.alternatives().find_map(by_name) {
            return Some(found);
        }
        if let Some(subject) = names.distinguished_name() {
            let parsed = || {
                let allowed = self.users.iter().filter(|(_, user)| user.allows(peer.connection));
                allowed.filter_map(|(name, user)| {
                    Some((crate::certificate::DistinguishedName::parse(name)?, (name.as_str(), user)))
                })
            };
            let found = parsed()
                .find(|(name, _)| name.is_equal(&subject))
                .or_else(|| parsed().find(|(name, _)| name.is_permutation(&subject)));
            if let Some((_, found)) = found {
                return Some(found);
            }
        }
        names.subjects().iter().find_map(|name| by_name(name))
    }

    fn global(&self, credentials: &Credentials<'_>) -> Result<Identity, AuthError> {
        let id = self.find(GLOBAL_ACCOUNT).ok_or(Reason::Unknown)?;
        self.identity_in(id, None, credentials)
    }

    fn identity(&self, user: &User, credentials: &Credentials<'_>) -> Result<Identity, AuthError> {
        self.identity_in(user.account, user.permissions.clone(), credentials)
    }

    fn identity_in(
        &self,
        id: AccountId,
        permissions: Option<Arc<Permissions>>,
        credentials: &Credentials<'_>,
    ) -> Result<Identity, AuthError> {
        let account = self.account(id).ok_or(Reason::Unknown)?;
        Ok(Identity {
            account: id,
            account_name: account.name.clone(),
            user: credentials.display(""),
            permissions,
            limits: ConnectionLimits::of(&account.limits),
            expires_unix_nanos: None,
            account_expires_unix_nanos: None,
            has_default_permissions: false,
            by_callout: false,
            token: None,
            proxy_key: None,
        })
    }
}
