//! Building a table: checks, numbering, compiling.
//!
//! Owns the order of it all: whom to trust, which accounts there are, exports before imports, users last.

mod claimed;
mod network;
mod trusted;

use super::{Account, AccountId, GLOBAL_ACCOUNT, SYSTEM_ACCOUNT, Single, Table, User, Users};
use crate::jwt::AccountClaims;
use crate::secret::{Secret, key_kind};
use crate::source::{AccountSource, AccountsSource, Login, UserSource};
use crate::{ConnectionType, Error, Mappings, Permissions, PermissionsSource};
use nkeys::KeyPairType;
use std::collections::HashMap;
use std::sync::Arc;

/// Tokens of accounts by name, with their text.
type Tokens = HashMap<String, (Arc<str>, Arc<AccountClaims>)>;

pub(super) fn table(
    source: Arc<AccountsSource>,
    previous: Option<&Table>,
    now_unix_nanos: u64,
) -> Result<Table, Error> {
    let now_seconds = (now_unix_nanos / 1_000_000_000) as i64;
    let trust = trusted::trust(&source, now_seconds)?;
    let mut notes = Vec::new();
    let mut tokens = Tokens::new();
    if let Some(trust) = &trust {
        let kept = previous.into_iter().flat_map(|table| &table.claims);
        tokens.extend(
            kept.filter(|(_, (_, claims))| trust.keys.contains(&claims.issuer))
                .map(|(name, token)| (name.clone(), token.clone())),
        );
        for text in &source.operators.accounts {
            match trusted::account(trust, text, now_seconds) {
                Ok(claims) => {
                    tokens.insert(claims.subject.clone(), (text.as_str().into(), Arc::new(claims)));
                }
                Err(error) => notes.push(error.to_string()),
            }
        }
    }
    assemble(source, previous, trust, tokens, notes, now_seconds)
}

/// The table with these accounts, and why some of them are not in it; without a table when none is.
pub(super) fn with_accounts(
    table: &Table,
    texts: &[Arc<str>],
    now_unix_nanos: u64,
) -> Result<(Option<Table>, Vec<Error>), Error> {
    let now_seconds = (now_unix_nanos / 1_000_000_000) as i64;
    let Some(trust) = trusted::trust(&table.source, now_seconds)? else {
        return Err(Error::Operator("accounts are added by JWT in operator mode only".into()));
    };
    let mut errors = Vec::new();
    let mut tokens = table.claims.clone();
    for text in texts {
        match trusted::account(&trust, text, now_seconds) {
            Ok(claims) => drop(tokens.insert(claims.subject.clone(), (text.clone(), Arc::new(claims)))),
            Err(error) => errors.push(error),
        }
    }
    if errors.len() == texts.len() {
        return Ok((None, errors));
    }
    let changed = assemble(table.source.clone(), Some(table), Some(trust), tokens, Vec::new(), now_seconds)?;
    Ok((Some(changed), errors))
}

pub(super) fn without_account(table: &Table, name: &str, now_unix_nanos: u64) -> Result<Table, Error> {
    let now_seconds = (now_unix_nanos / 1_000_000_000) as i64;
    let trust = trusted::trust(&table.source, now_seconds)?;
    let mut tokens = table.claims.clone();
    tokens.remove(name);
    assemble(table.source.clone(), Some(table), trust, tokens, Vec::new(), now_seconds)
}

/// The table without imports whose activation has expired; `None` when none has.
pub(super) fn without_expired(table: &Table, now_unix_nanos: u64) -> Result<Option<Table>, Error> {
    let now_seconds = (now_unix_nanos / 1_000_000_000) as i64;
    if table.activation_expires_seconds.is_none_or(|expires| expires > now_seconds) {
        return Ok(None);
    }
    let trust = trusted::trust(&table.source, now_seconds)?;
    let (source, tokens) = (table.source.clone(), table.claims.clone());
    assemble(source, Some(table), trust, tokens, Vec::new(), now_seconds).map(Some)
}

fn assemble(
    source: Arc<AccountsSource>,
    previous: Option<&Table>,
    trust: Option<crate::jwt::user::Trust>,
    tokens: Tokens,
    mut notes: Vec<String>,
    now_seconds: i64,
) -> Result<Table, Error> {
    let drafts = drafts(&source, previous, &tokens, &mut notes)?;
    let by_name: HashMap<Arc<str>, AccountId> = drafts
        .iter()
        .enumerate()
        .map(|(index, draft)| (Arc::from(draft.source.name.as_str()), AccountId::from_index(index)))
        .collect();
    let system_account = system_name(&source).and_then(|name| by_name.get(&*name).copied());
    let strict_keys = trust.as_ref().map_or(&[][..], |trust| &trust.strict_keys);
    let context = network::Context { by_name: &by_name, system_account, strict_keys, now_seconds };
    let exchanged = network::connect(&drafts, &context, &mut notes)?;
    let mut accounts = Vec::new();
    for ((index, draft), (exports, imports)) in drafts.iter().enumerate().zip(exchanged) {
        if let Some(account) = &draft.same {
            accounts.push(account.clone());
            continue;
        }
        let account = draft.source.name.as_str();
        let mappings = match Mappings::new(&draft.source.mappings, &source.cluster, account) {
            Err(error) if draft.claims.is_some() => {
                notes.push(error.to_string());
                Mappings::default()
            }
            other => other?,
        };
        let default_permissions = draft.source.default_permissions.as_ref();
        accounts.push(Arc::new(Account {
            id: AccountId::from_index(index),
            name: account.into(),
            limits: draft.source.limits,
            mappings,
            exports,
            imports,
            trace: draft.source.trace.clone(),
            is_removed: draft.is_removed,
            default_permissions: default_permissions.map(|source| compiled(source, account)).transpose()?,
            claims: draft.claims.clone(),
        }));
    }
    let mut table = Table {
        activation_expires_seconds: accounts.iter().filter_map(|a| a.imports.expires_seconds()).min(),
        accounts,
        by_name,
        system_account,
        users: Users::new(),
        nkeys: Users::new(),
        single: single(&source),
        anonymous: is_anonymous(&source, &drafts),
        trust,
        claims: tokens,
        notes,
        source: source.clone(),
    };
    add_users(&mut table, &source)?;
    check_no_auth_user(&table)?;
    Ok(table)
}

/// An account to be.
struct Draft {
    source: AccountSource,
    claims: Option<Arc<AccountClaims>>,
    is_removed: bool,
    /// The account of the table before, where it would be built the same.
    same: Option<Arc<Account>>,
}

impl Draft {
    fn empty(name: &str) -> Draft {
        Draft {
            source: AccountSource { name: name.into(), ..Default::default() },
            claims: None,
            is_removed: false,
            same: None,
        }
    }
}

/// Accounts of the table before that would be built the same: of the same configuration, with the same token, and
/// without imports, which depend on other accounts and on time. So a table with one more account of thousands costs
/// little. What every account imports from the system account is the same as long as that is.
struct Unchanged<'a>(Option<&'a Table>);

impl<'a> Unchanged<'a> {
    fn new(source: &Arc<AccountsSource>, previous: Option<&'a Table>, tokens: &Tokens) -> Unchanged<'a> {
        let all = Unchanged(previous.filter(|table| Arc::ptr_eq(&table.source, source)));
        let system = previous.and_then(|table| table.account(table.system_account?));
        let system = system.and_then(|account| all.account(&tokens.get(&*account.name)?.1));
        if system.is_some() { all } else { Unchanged(None) }
    }

    fn account(&self, claims: &Arc<AccountClaims>) -> Option<Arc<Account>> {
        let table = self.0?;
        let account = table.account(table.find(&claims.subject)?)?;
        let same = account.claims.as_ref().is_some_and(|known| Arc::ptr_eq(known, claims));
        (same && !account.is_removed && claims.nats.imports.is_empty()).then(|| account.clone())
    }
}

/// All accounts in the order of their numbers: first those of the table before.
fn drafts(
    source: &Arc<AccountsSource>,
    previous: Option<&Table>,
    tokens: &Tokens,
    notes: &mut Vec<String>,
) -> Result<Vec<Draft>, Error> {
    let mut found: Vec<Draft> = vec![Draft::empty(GLOBAL_ACCOUNT)];
    found[0].source.mappings.clone_from(&source.mappings);
    for account in &source.accounts {
        if account.name == GLOBAL_ACCOUNT {
            return Err(Error::ReservedAccount(account.name.clone()));
        }
        if found.iter().any(|draft| draft.source.name == account.name) {
            return Err(Error::DuplicateAccount(account.name.clone()));
        }
        found.push(Draft { source: account.clone(), ..Draft::empty("") });
    }
    let unchanged = Unchanged::new(source, previous, tokens);
    let mut names: Vec<&String> = tokens.keys().collect();
    names.sort();
    for name in names {
        if let Some((_, claims)) = tokens.get(name) {
            let same = unchanged.account(claims);
            let draft = match &same {
                Some(_) => Draft::empty(name),
                None => Draft { source: claimed::account(claims, notes), ..Draft::empty("") },
            };
            found.push(Draft { claims: Some(claims.clone()), same, ..draft });
        }
    }
    if let Some(system) = system_name(source)
        && !found.iter().any(|draft| draft.source.name == system)
    {
        if source.system_account.is_some() && !source.operators.is_used() {
            let used_by = "system_account".into();
            return Err(Error::UnknownAccount { account: system, used_by });
        }
        found.push(Draft::empty(&system));
    }
    let mut places: HashMap<String, usize> = HashMap::new();
    for (place, draft) in found.iter().enumerate() {
        places.insert(draft.source.name.clone(), place);
    }
    let mut found: Vec<Option<Draft>> = found.into_iter().map(Some).collect();
    let mut ordered = Vec::with_capacity(found.len());
    for account in previous.into_iter().flat_map(|table| table.accounts()) {
        let known = places.get(&*account.name).and_then(|place| found.get_mut(*place)?.take());
        ordered.push(known.unwrap_or_else(|| Draft { is_removed: true, ..Draft::empty(&account.name) }));
    }
    ordered.extend(found.into_iter().flatten());
    Ok(ordered)
}

/// The name of the system account; nothing if there is to be none. `no_system_account` keeps away the one
/// that nobody named.
fn system_name(source: &AccountsSource) -> Option<String> {
    let named = source.system_account.clone().or_else(|| trusted::system_account(source));
    named.or_else(|| (!source.no_system_account).then(|| SYSTEM_ACCOUNT.into()))
}

fn compiled(source: &PermissionsSource, owner: &str) -> Result<Arc<Permissions>, Error> {
    Permissions::new(source, owner).map(Arc::new)
}

fn single(source: &AccountsSource) -> Single {
    match (&source.authorization.token, &source.authorization.user) {
        (Some(token), _) => Single::Token(Secret::new(token)),
        (None, Some((name, password))) => Single::User(name.clone(), Secret::new(password)),
        (None, None) => Single::Nobody,
    }
}

/// Users of the system account alone, without an `authorization` block, do not shut everybody else out.
fn is_anonymous(source: &AccountsSource, drafts: &[Draft]) -> bool {
    let system = system_name(source);
    let accounts = drafts.iter().filter(|draft| !draft.is_removed).count();
    !source.operators.is_used()
        && accounts == 2
        && source
            .accounts
            .iter()
            .any(|account| Some(&account.name) == system.as_ref() && !account.users.is_empty())
        && !source.authorization.is_written
        && source.authorization.no_auth_user.is_none()
}

fn add_users(table: &mut Table, source: &AccountsSource) -> Result<(), Error> {
    let authorization = &source.authorization;
    let of_global =
        authorization.users.iter().map(|user| (GLOBAL_ACCOUNT, user, &authorization.default_permissions));
    let of_accounts = source.accounts.iter().flat_map(|account| {
        account.users.iter().map(|user| (account.name.as_str(), user, &account.default_permissions))
    });
    for (account, user, default) in of_global.chain(of_accounts) {
        let Some(id) = table.find(account) else { continue };
        add_user(table, id, user, default.as_ref())?;
    }
    Ok(())
}

fn add_user(
    table: &mut Table,
    account: AccountId,
    source: &UserSource,
    default: Option<&PermissionsSource>,
) -> Result<(), Error> {
    let (name, secret, is_key) = match &source.login {
        Login::Password { user, password } => (user, Secret::new(password), false),
        Login::Nkey(key) => (key, Secret::new(""), true),
    };
    if is_key && key_kind(name) != Some(KeyPairType::User) {
        return Err(Error::BadNkey(name.clone()));
    }
    if table.users.contains_key(name) || table.nkeys.contains_key(name) {
        let error = if is_key { Error::DuplicateNkey } else { Error::DuplicateUser };
        return Err(error(name.clone()));
    }
    let types = source.connection_types.iter();
    let connections = types
        .map(|name| ConnectionType::parse(name).ok_or_else(|| Error::ConnectionType(name.clone())))
        .collect::<Result<Vec<_>, _>>()?;
    let permissions = source.permissions.as_ref().or(default);
    let owner = || format!("{} {name:?}", if is_key { "nkey" } else { "user" });
    let user = User {
        account,
        secret,
        permissions: permissions.map(|source| compiled(source, &owner())).transpose()?,
        connections,
        proxy_required: source.proxy_required,
    };
    if is_key { &mut table.nkeys } else { &mut table.users }.insert(name.clone(), user);
    Ok(())
}

fn check_no_auth_user(table: &Table) -> Result<(), Error> {
    let Some(name) = &table.source.authorization.no_auth_user else { return Ok(()) };
    let reason = if table.trust.is_some() {
        "not compatible with Trusted Operator"
    } else if table.users.is_empty() && table.nkeys.is_empty() {
        "present, but users/nkeys are not defined"
    } else if !table.users.contains_key(name) && !table.nkeys.contains_key(name) {
        "not present as user or nkey in authorization block or account configuration"
    } else {
        return Ok(());
    };
    Err(Error::NoAuthUser { name: name.clone(), reason })
}
