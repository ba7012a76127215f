//! Connecting accounts: exports first, then imports with their admission and the search for cycles, and
//! what every account gets from the system account.

use super::Draft;
use crate::exchange::{
    AccessSource, Admission, Exports, Importer, Imports, Network, ResponseType, ServiceExportSource,
    ServiceImport, ServiceImportSource, StreamImport, StreamImportSource, local_service, local_subject,
};
use crate::jwt::claims::is_revoked;
use crate::jwt::{check, token};
use crate::{AccountId, Error, ExchangeError};
use std::collections::HashMap;
use std::sync::Arc;
use subject::{is_literal, is_valid, transform};

pub(super) struct Context<'a> {
    pub by_name: &'a HashMap<Arc<str>, AccountId>,
    pub system_account: Option<AccountId>,
    /// Keys of operators under whom an account's own key signs nothing.
    pub strict_keys: &'a [String],
    pub now_seconds: i64,
}

impl Context<'_> {
    fn find(&self, name: &str, used_by: &str) -> Result<AccountId, Error> {
        let unknown = || Error::UnknownAccount { account: name.into(), used_by: used_by.into() };
        self.by_name.get(name).copied().ok_or_else(unknown)
    }
}

/// Exports and imports of each account. What claims get wrong is noted and left out: no account may keep
/// others from being built. What configuration gets wrong is an error.
pub(super) fn connect(
    drafts: &[Draft],
    context: &Context<'_>,
    notes: &mut Vec<String>,
) -> Result<Vec<(Exports, Imports)>, Error> {
    // what an account that stays the same imports from the system account is not looked at
    let exports = |draft: &Draft| draft.same.as_ref().map(|account| account.exports.clone());
    let mut accounts: Vec<(Exports, Imports)> =
        drafts.iter().map(|draft| (exports(draft).unwrap_or_default(), Imports::default())).collect();
    let mut settle = |draft: &Draft, result: Result<(), Error>| match (result, &draft.claims) {
        (Err(error), Some(_)) => {
            notes.push(error.to_string());
            Ok(())
        }
        (other, _) => other,
    };
    for (draft, (exports, _)) in drafts.iter().zip(&mut accounts) {
        for export in &draft.source.stream_exports {
            let added = check_names(&export.access, context, "stream export");
            let added = added
                .and_then(|()| wrong(draft, "stream export", &export.subject, exports.add_stream(export)));
            settle(draft, added)?;
        }
        for export in &draft.source.service_exports {
            let added = check_names(&export.access, context, "service export");
            let added = added
                .and_then(|()| wrong(draft, "service export", &export.subject, exports.add_service(export)));
            settle(draft, added)?;
        }
    }
    export_system(&mut accounts, context);
    for (index, draft) in drafts.iter().enumerate() {
        let importer = AccountId::from_index(index);
        for import in &draft.source.stream_imports {
            let added = import_stream(drafts, &mut accounts, context, importer, import);
            settle(draft, added)?;
        }
        for import in &draft.source.service_imports {
            let added = import_service(drafts, &mut accounts, context, importer, import);
            settle(draft, added)?;
        }
    }
    import_system(drafts, &mut accounts, context);
    Ok(accounts)
}

fn check_names(access: &AccessSource, context: &Context<'_>, used_by: &str) -> Result<(), Error> {
    access.accounts.iter().try_for_each(|name| context.find(name, used_by).map(|_| ()))
}

fn wrong<T>(
    draft: &Draft,
    what: &'static str,
    subject: &str,
    result: Result<T, ExchangeError>,
) -> Result<T, Error> {
    result.map_err(|reason| Error::Exchange {
        account: draft.source.name.clone(),
        what,
        subject: subject.into(),
        reason: Box::new(reason),
    })
}

type Accounts = [(Exports, Imports)];

fn import_stream(
    drafts: &[Draft],
    accounts: &mut Accounts,
    context: &Context<'_>,
    importer: AccountId,
    source: &StreamImportSource,
) -> Result<(), Error> {
    let exporter = context.find(&source.account, "stream import")?;
    let (Some(draft), Some(exporting)) = (drafts.get(importer.index()), drafts.get(exporter.index())) else {
        return Ok(());
    };
    let import = || {
        let activation = activation(exporting, context, source.token.as_deref());
        let asker = Importer { name: &draft.source.name, activation: &activation };
        let exports = &accounts[exporter.index()].0;
        let admission =
            exports.admits_stream(&source.subject, &asker).ok_or(ExchangeError::StreamNotAuthorized)?;
        let local = local_subject(source)?;
        let network = Network { accounts };
        network.check_stream(importer, exporter, &local)?;
        network.check_stream(importer, exporter, &source.subject)?;
        let mut import = StreamImport::new(source, exporter)?;
        import.expires_seconds = admission.expires_seconds;
        let known = &accounts[importer.index()].1.streams;
        if known.iter().any(|other| other.account == exporter && other.from == import.from) {
            return Err(ExchangeError::DuplicateStream);
        }
        Ok(import)
    };
    let import = wrong(draft, "stream import", &source.subject, import())?;
    accounts[importer.index()].1.streams.push(import);
    Ok(())
}

fn import_service(
    drafts: &[Draft],
    accounts: &mut Accounts,
    context: &Context<'_>,
    importer: AccountId,
    source: &ServiceImportSource,
) -> Result<(), Error> {
    let exporter = context.find(&source.account, "service import")?;
    let (Some(draft), Some(exporting)) = (drafts.get(importer.index()), drafts.get(exporter.index())) else {
        return Ok(());
    };
    let import = || {
        let local = local_service(source);
        if !is_valid(local.as_bytes()) || !is_valid(source.subject.as_bytes()) {
            return Err(ExchangeError::InvalidSubject);
        }
        let activation = activation(exporting, context, source.token.as_deref());
        let asker = Importer { name: &draft.source.name, activation: &activation };
        let exports = &accounts[exporter.index()].0;
        let admission =
            exports.admits_service(&source.subject, &asker).ok_or(ExchangeError::ServiceNotAuthorized)?;
        let wild = !is_literal(source.subject.as_bytes());
        let from = if wild { transform::untokenize(local) } else { local.to_owned() };
        Network { accounts }.check_service(importer, exporter, &from)?;
        let mut import = ServiceImport::new(source, exporter, exports.service(&source.subject))?;
        import.expires_seconds = admission.expires_seconds;
        let known = &accounts[importer.index()].1.services;
        if known.iter().any(|other| other.account == exporter && other.from == import.from) {
            let (from, account) = (import.from.into(), source.account.clone());
            return Err(ExchangeError::DuplicateService { from, account });
        }
        Ok(import)
    };
    let import = wrong(draft, "service import", &source.subject, import())?;
    accounts[importer.index()].1.services.push(import);
    Ok(())
}

/// Looks at an activation token on behalf of `exporter`. That it fits the import was checked with the
/// importing account's claims.
fn activation<'a>(
    exporter: &'a Draft,
    context: &'a Context<'_>,
    text: Option<&'a str>,
) -> impl Fn(&[(String, i64)]) -> Option<Admission> + 'a {
    move |revocations| {
        let claims = token::activation(text?).ok()?;
        let account = exporter.claims.as_ref()?;
        let issuer_account = &claims.nats.issuer_account;
        let own_key = claims.issuer == account.subject;
        let trusted = match issuer_account.is_empty() {
            true => own_key,
            false => {
                let signs = own_key && !context.strict_keys.contains(&account.issuer);
                *issuer_account == account.subject
                    && (signs || account.nats.signing_key(&claims.issuer).is_some())
            }
        };
        let live = check::times(&claims, context.now_seconds).is_ok()
            && (claims.expires == 0 || claims.expires > context.now_seconds);
        let until = |key: &str| revocations.iter().find(|(other, _)| other == key).map(|(_, until)| *until);
        let revoked = is_revoked(until, &claims.subject, claims.issued_at);
        let expires_seconds = (claims.expires > 0).then_some(claims.expires);
        (trusted && live && !revoked).then_some(Admission { expires_seconds })
    }
}

/// Services of the system account that other accounts may use. `*` is the asking account's own name: no
/// account learns of others.
const OF_ACCOUNTS: [&str; 2] = ["CONNZ", "STATZ"];
const SUBSCRIBERS: &str = "$SYS.DEBUG.SUBSCRIBERS";
const USER_INFO: &str = "$SYS.REQ.USER.INFO";

fn of_account(account: &str, what: &str) -> String {
    format!("$SYS.REQ.ACCOUNT.{account}.{what}")
}

fn user_info(account: &str) -> String {
    format!("$SYS.REQ.USER.{account}.INFO")
}

fn export_system(accounts: &mut Accounts, context: &Context<'_>) {
    let Some((exports, _)) = context.system_account.and_then(|id| accounts.get_mut(id.index())) else {
        return;
    };
    let mut add = |subject: String, response_type, account_token_position| {
        if exports.service(&subject).is_none() {
            let access = AccessSource { account_token_position, ..Default::default() };
            // Subjects and positions are ours, so adding them cannot fail.
            let _ = exports.add_service(&ServiceExportSource {
                subject,
                access,
                response_type,
                ..Default::default()
            });
        }
    };
    for what in OF_ACCOUNTS {
        add(of_account("*", what), ResponseType::Stream, 4);
    }
    add(SUBSCRIBERS.into(), ResponseType::Singleton, 0);
    add(user_info("*"), ResponseType::Singleton, 0);
}

fn import_system(drafts: &[Draft], accounts: &mut Accounts, context: &Context<'_>) {
    let Some(system) = context.system_account else { return };
    let exports = accounts[system.index()].0.clone();
    for (index, draft) in drafts.iter().enumerate().filter(|(_, draft)| draft.same.is_none()) {
        let (name, imports) = (&draft.source.name, &mut accounts[index].1);
        let mut add = |from: &str, to: String, share: bool| {
            if imports.services.iter().any(|other| other.account == system && *other.from == *from) {
                return;
            }
            let export = exports.service(&to);
            let source =
                ServiceImportSource { subject: to.clone(), to: from.into(), share, ..Default::default() };
            if let Ok(import) = ServiceImport::new(&source, system, export) {
                imports.services.push(import);
            }
        };
        add(USER_INFO, user_info(name), true);
        if index == system.index() || draft.is_removed {
            continue;
        }
        add("$SYS.REQ.ACCOUNT.PING.CONNZ", of_account(name, "CONNZ"), false);
        add("$SYS.REQ.SERVER.PING.CONNZ", of_account(name, "CONNZ"), false);
        add("$SYS.REQ.ACCOUNT.PING.STATZ", of_account(name, "STATZ"), false);
    }
}
