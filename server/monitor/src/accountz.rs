//! `/accountz` and `/accstatz`: accounts, what they share, and what they moved.
//!
//! Owns both documents and the account numbers that `$SYS.ACCOUNT.*.SERVER.CONNS` shares with them. Never decodes
//! JWTs: the claims arrive decoded.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::json::field::is_default;
use crate::query::{Error, Query};
use crate::source::{MessagesBytes, Source};
use crate::subsz::{IndexStatistics, IndexSummary};
use crate::time::Timestamp;

/// What a request for `/accountz` asks; the JSON form is the payload of `$SYS.REQ.SERVER.*.ACCOUNTZ`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AccountzOptions {
    /// Details of this account in place of the list of names.
    pub account: String,
}

impl AccountzOptions {
    /// Reads the parameters of the HTTP endpoint.
    pub fn parse(query: &Query<'_>) -> Self {
        Self { account: query.text("acc").into_owned() }
    }
}

/// The document of `/accountz` (`Accountz` in monitor.go).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Accountz {
    /// Id of the server.
    pub server_id: String,
    /// When the document was made.
    pub now: Timestamp,
    /// Name of the system account.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system_account: String,
    /// Names of all accounts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accounts: Vec<String>,
    /// The account asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account_detail: Option<AccountDetail>,
}

/// Answers `/accountz`.
pub fn document(source: &dyn Source, options: &AccountzOptions) -> Result<Accountz, Error> {
    let mut document = Accountz {
        server_id: source.identity().id,
        now: source.now(),
        system_account: source.system_account(),
        accounts: Vec::new(),
        account_detail: None,
    };
    if options.account.is_empty() {
        document.accounts = source.account_names();
    } else {
        document.account_detail = Some(detail(source, &options.account)?);
    }
    Ok(document)
}

/// The details of one account, also the answer to `$SYS.REQ.ACCOUNT.<account>.INFO`.
pub fn detail(source: &dyn Source, account: &str) -> Result<AccountDetail, Error> {
    let info = source.account(account).ok_or_else(|| Error::Account(account.to_owned()))?;
    let sublist_stats = IndexSummary::new(&[info.index]);
    Ok(AccountDetail { info, sublist_stats })
}

/// What is known about one account. Texts that do not apply are empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AccountInfo {
    /// Name, or public key in operator mode.
    pub account_name: String,
    /// When it last changed.
    pub update_time: Timestamp,
    /// It is the system account.
    #[serde(skip_serializing_if = "is_default")]
    pub is_system: bool,
    /// Its JWT has expired.
    pub expired: bool,
    /// All that it imports was found.
    pub complete: bool,
    /// JetStream is on for it.
    pub jetstream_enabled: bool,
    /// Leaf nodes connected here.
    pub leafnode_connections: usize,
    /// Clients connected here.
    pub client_connections: usize,
    /// Subscriptions here.
    pub subscriptions: u64,
    /// Subject mappings by source.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub mappings: BTreeMap<String, Vec<MappingDestination>>,
    /// What others may import.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exports: Vec<Export>,
    /// What it imports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<Import>,
    /// Account JWT.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub jwt: String,
    /// Key that issued it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub issuer_key: String,
    /// Name for people; the name itself outside operator mode.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name_tag: String,
    /// Tags in the JWT.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Claims in the JWT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decoded_jwt: Option<serde_json::Value>,
    /// Users refused before a time.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub revoked_user: BTreeMap<String, Timestamp>,
    /// Numbers of its subscription index.
    #[serde(skip)]
    pub index: IndexStatistics,
}

/// One account in `/accountz` (`AccountInfo` in monitor.go).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AccountDetail {
    /// What is known.
    #[serde(flatten)]
    pub info: AccountInfo,
    /// Its subscription index.
    pub sublist_stats: IndexSummary,
}

/// One destination of a mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MappingDestination {
    /// Subject that messages get.
    pub subject: String,
    /// Percent of the messages.
    pub weight: u8,
    /// Cluster that it applies to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cluster: String,
}

/// What is shared, `type` in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ShareKind {
    /// Messages one way.
    Stream,
    /// Requests and replies.
    Service,
}

/// One export.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Export {
    /// Subject offered.
    pub subject: String,
    /// Stream or service.
    #[serde(rename = "type")]
    pub kind: ShareKind,
    /// Importers need an activation token.
    #[serde(rename = "token_req", skip_serializing_if = "is_default")]
    pub token_required: bool,
    /// `Singleton`, `Streamed` or `Chunked` of a service; empty for streams.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub response_type: String,
    /// Latency sampling of a service.
    #[serde(rename = "service_latency", skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencySampling>,
    /// Accounts that may import it; all if empty and no token is needed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub approved_accounts: Vec<String>,
    /// Activations refused before a time.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub revoked_activations: BTreeMap<String, Timestamp>,
}

/// Which requests are measured and where the measures go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LatencySampling {
    /// Percent of the requests, or 0 (`headers` in JSON) for those that ask by header.
    #[serde(serialize_with = "sampling")]
    pub sampling: u8,
    /// Subject of the measures.
    pub results: String,
}

fn sampling<S: serde::Serializer>(percent: &u8, serializer: S) -> Result<S::Ok, S::Error> {
    match percent {
        0 => serializer.serialize_str("headers"),
        percent => serializer.serialize_u8(*percent),
    }
}

/// One import.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Import {
    /// Subject in the exporting account.
    pub subject: String,
    /// The exporting account.
    pub account: String,
    /// Old name of `local_subject`, filled for services.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub to: String,
    /// Subject in the importing account.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub local_subject: String,
    /// Stream or service.
    #[serde(rename = "type")]
    pub kind: ShareKind,
    /// The export is gone or refuses this account.
    pub invalid: bool,
    /// The service learns who asks.
    pub share: bool,
    /// Latency is measured.
    pub tracking: bool,
    /// Latency sampling of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencySampling>,
}

/// What a request for `/accstatz` asks; the JSON form is the payload of `$SYS.REQ.ACCOUNT.PING.STATZ`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AccountStatzOptions {
    /// Only these accounts, all if empty.
    pub accounts: Vec<String>,
    /// Accounts without a connection too.
    pub include_unused: bool,
}

impl AccountStatzOptions {
    /// Reads the parameters of the HTTP endpoint.
    pub fn parse(query: &Query<'_>) -> Result<Self, Error> {
        Ok(Self { accounts: Vec::new(), include_unused: query.boolean("unused")? })
    }
}

/// The document of `/accstatz` (`AccountStatz` in monitor.go).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AccountStatz {
    /// Id of the server.
    pub server_id: String,
    /// When the document was made.
    pub now: Timestamp,
    /// One entry an account.
    pub account_statz: Vec<AccountStat>,
}

/// Answers `/accstatz`.
pub fn statistics(source: &dyn Source, options: &AccountStatzOptions) -> AccountStatz {
    let all = source.account_statistics();
    let shown = |account: &&AccountStatistics| {
        (options.accounts.is_empty() || options.accounts.contains(&account.account))
            && (options.include_unused || account.client_connections + account.leafnode_connections > 0)
    };
    AccountStatz {
        server_id: source.identity().id,
        now: source.now(),
        account_statz: all.iter().filter(shown).map(AccountStat::from).collect(),
    }
}

/// Connections and traffic of one account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountStatistics {
    /// Name, or public key in operator mode.
    pub account: String,
    /// Name for people.
    pub name_tag: String,
    /// Clients connected here.
    pub client_connections: usize,
    /// Leaf nodes connected here.
    pub leafnode_connections: usize,
    /// Subscriptions here.
    pub subscriptions: u64,
    /// To its connections.
    pub sent: Flow,
    /// From its connections.
    pub received: Flow,
    /// Connections closed for being too slow.
    pub slow_consumers: u64,
}

/// Messages and bytes in one direction, by kind of peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// All kinds together.
    #[serde(flatten)]
    pub total: MessagesBytes,
    /// Gateways.
    pub gateways: MessagesBytes,
    /// Routes.
    pub routes: MessagesBytes,
    /// Leaf nodes.
    pub leafs: MessagesBytes,
}

/// One account in `/accstatz` and in account events (`AccountStat` in events.go).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AccountStat {
    /// Name, or public key in operator mode.
    pub acc: String,
    /// Name for people.
    pub name: String,
    /// Clients.
    pub conns: usize,
    /// Leaf nodes.
    pub leafnodes: usize,
    /// Both.
    pub total_conns: usize,
    /// Subscriptions.
    pub num_subscriptions: u64,
    /// To its connections.
    pub sent: Flow,
    /// From its connections.
    pub received: Flow,
    /// Connections closed for being too slow.
    pub slow_consumers: u64,
}

impl From<&AccountStatistics> for AccountStat {
    fn from(account: &AccountStatistics) -> Self {
        Self {
            acc: account.account.clone(),
            name: account.name_tag.clone(),
            conns: account.client_connections,
            leafnodes: account.leafnode_connections,
            total_conns: account.client_connections + account.leafnode_connections,
            num_subscriptions: account.subscriptions,
            sent: account.sent,
            received: account.received,
            slow_consumers: account.slow_consumers,
        }
    }
}
