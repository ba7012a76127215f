//! `/connz`: open and closed client connections, filtered, sorted and cut into pages.
//!
//! Owns the options, the fourteen orders and the document. Never keeps connections: the [`Source`] lists them.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use crate::json::field::is_default;
use crate::query::{Error, Query, SubscriptionsShown, cut, page};
use crate::source::{ClosedConnection, Connection, PeerCertificate, Selection, Source};
use crate::subsz::SubscriptionDetail;
use crate::time::{Timestamp, round_trip, uptime};
use crate::varz::Proxy;

/// Connections on a page unless the request says otherwise.
pub const DEFAULT_LIMIT: usize = 1024;

/// The account of clients without account; never shown.
const GLOBAL_ACCOUNT: &str = "$G";

/// What a request for `/connz` asks; the JSON form is the payload of `$SYS.REQ.SERVER.*.CONNZ`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ConnzOptions {
    /// `cid`, `start`, `subs`, `pending`, `msgs_to`, `msgs_from`, `bytes_to`, `bytes_from`, `last`, `idle`, `uptime`,
    /// `rtt`, and of closed connections `stop` and `reason`; empty for `cid`.
    pub sort: String,
    /// Show user, account, JWT and certificates.
    pub auth: bool,
    /// List subjects.
    pub subscriptions: bool,
    /// List subscriptions in detail; wins over `subscriptions`.
    pub subscriptions_detail: bool,
    /// First connection of the page.
    pub offset: i64,
    /// Length of the page, [`DEFAULT_LIMIT`] if not positive.
    pub limit: i64,
    /// Only this connection, if not zero.
    pub cid: u64,
    /// Only this MQTT client.
    pub mqtt_client: String,
    /// Open, closed or both.
    pub state: State,
    /// Only this user.
    pub user: String,
    /// Only this account.
    pub acc: String,
    /// Only open connections with a subscription that shares a subject with this one; needs `acc`.
    pub filter_subject: String,
}

/// Which connections to show; a number in `$SYS` requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "i64")]
pub enum State {
    /// Open ones.
    #[default]
    Open,
    /// Closed ones.
    Closed,
    /// Both.
    Any,
    /// A number that stands for none of these, in a request over `$SYS`.
    Neither,
}

impl From<i64> for State {
    fn from(number: i64) -> Self {
        match number {
            0 => Self::Open,
            1 => Self::Closed,
            2 => Self::Any,
            _ => Self::Neither,
        }
    }
}

impl State {
    fn open(self) -> bool {
        matches!(self, Self::Open | Self::Any)
    }

    fn closed(self) -> bool {
        matches!(self, Self::Closed | Self::Any)
    }
}

impl ConnzOptions {
    /// Reads the parameters of the HTTP endpoint. `filter_subject` is an addition: nats-server takes it in `$SYS`
    /// requests only.
    pub fn parse(query: &Query<'_>) -> Result<Self, Error> {
        let auth = query.boolean("auth")?;
        let shown = query.subscriptions()?;
        let offset = query.integer("offset")?;
        let limit = query.integer("limit")?;
        let cid = query.unsigned("cid")?;
        let state = query.text("state");
        let state = match state.to_ascii_lowercase().as_str() {
            "" | "open" => State::Open,
            "closed" => State::Closed,
            "any" | "all" => State::Any,
            _ => return Err(Error::State(state.into_owned())),
        };
        Ok(Self {
            sort: query.text("sort").into_owned(),
            auth,
            subscriptions: shown == SubscriptionsShown::Subjects,
            subscriptions_detail: shown == SubscriptionsShown::Detail,
            offset,
            limit,
            cid,
            mqtt_client: query.text("mqtt_client").into_owned(),
            state,
            user: query.text("user").into_owned(),
            acc: query.text("acc").into_owned(),
            filter_subject: query.text("filter_subject").into_owned(),
        })
    }

    fn shown(&self) -> SubscriptionsShown {
        SubscriptionsShown::from_flags(self.subscriptions, self.subscriptions_detail)
    }

    /// The subject to filter by, if it excludes anything.
    fn filter(&self) -> Result<Option<&str>, Error> {
        match self.filter_subject.as_str() {
            "" | ">" => Ok(None),
            _ if self.acc.is_empty() => Err(Error::FilterWithoutAccount),
            filter => Ok(Some(filter)),
        }
    }
}

/// An order of connections. All but `cid`, `start`, `uptime` and `reason` have the largest first; equals are in
/// ascending `cid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Cid,
    Subscriptions,
    Pending,
    MessagesTo,
    MessagesFrom,
    BytesTo,
    BytesFrom,
    Last,
    Idle,
    Uptime,
    Stop,
    Reason,
    RoundTrip,
}

impl Sort {
    fn parse(name: &str, state: State) -> Result<Self, Error> {
        match name {
            "" | "cid" | "start" => Ok(Self::Cid),
            "subs" => Ok(Self::Subscriptions),
            "pending" => Ok(Self::Pending),
            "msgs_to" => Ok(Self::MessagesTo),
            "msgs_from" => Ok(Self::MessagesFrom),
            "bytes_to" => Ok(Self::BytesTo),
            "bytes_from" => Ok(Self::BytesFrom),
            "last" => Ok(Self::Last),
            "idle" => Ok(Self::Idle),
            "uptime" => Ok(Self::Uptime),
            "stop" if state != State::Closed => Err(Error::SortByStop),
            "stop" => Ok(Self::Stop),
            "reason" if state != State::Closed => Err(Error::SortByReason),
            "reason" => Ok(Self::Reason),
            "rtt" => Ok(Self::RoundTrip),
            unknown => Err(Error::Sort(unknown.to_owned())),
        }
    }

    fn apply(self, entries: &mut [Entry], now: Timestamp) {
        entries.sort_by_key(|entry| entry.connection.cid);
        match self {
            Self::Cid => {}
            Self::Subscriptions => entries.sort_by_key(|entry| Reverse(entry.connection.subscription_count)),
            Self::Pending => entries.sort_by_key(|entry| Reverse(entry.connection.pending_bytes)),
            Self::MessagesTo => entries.sort_by_key(|entry| Reverse(entry.connection.sent.messages)),
            Self::MessagesFrom => entries.sort_by_key(|entry| Reverse(entry.connection.received.messages)),
            Self::BytesTo => entries.sort_by_key(|entry| Reverse(entry.connection.sent.bytes)),
            Self::BytesFrom => entries.sort_by_key(|entry| Reverse(entry.connection.received.bytes)),
            Self::Last => entries.sort_by_key(|entry| Reverse(entry.connection.last_activity)),
            Self::Idle => entries.sort_by_key(|entry| entry.connection.last_activity),
            Self::Uptime => {
                entries.sort_by_key(|entry| entry.stop().unwrap_or(now).since(entry.connection.start));
            }
            Self::Stop => entries.sort_by_key(|entry| Reverse(entry.stop())),
            Self::Reason => entries.sort_by_key(|entry| entry.ended.map(|(_, reason)| reason)),
            Self::RoundTrip => entries.sort_by_key(|entry| Reverse(entry.connection.rtt)),
        }
    }
}

/// An open or closed connection on its way into the document.
struct Entry {
    connection: Connection,
    ended: Option<(Timestamp, &'static str)>,
}

impl Entry {
    fn stop(&self) -> Option<Timestamp> {
        self.ended.map(|(stop, _)| stop)
    }
}

impl From<ClosedConnection> for Entry {
    fn from(closed: ClosedConnection) -> Self {
        Self { connection: closed.connection, ended: Some((closed.stop, closed.reason.text())) }
    }
}

/// The document of `/connz` (`Connz` in monitor.go).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Connz {
    /// Id of the server; empty if the account is unknown.
    pub server_id: String,
    /// When the document was made.
    pub now: Timestamp,
    /// Connections on this page.
    pub num_connections: usize,
    /// Connections of the state and account asked for, before the other filters and the page.
    pub total: usize,
    /// Start of the page.
    pub offset: usize,
    /// Length of the page.
    pub limit: usize,
    /// The page; `null` if the account is unknown.
    pub connections: Option<Vec<ConnInfo>>,
}

/// Answers `/connz`.
pub fn document(source: &dyn Source, options: &ConnzOptions) -> Result<Connz, Error> {
    let sort = Sort::parse(&options.sort, options.state)?;
    let filter = options.filter()?;
    let (offset, mut limit) = page(options.offset, options.limit, DEFAULT_LIMIT);
    if options.cid > 0 {
        limit = 1;
    }
    let now = source.now();
    let selection = Selection {
        account: (!options.acc.is_empty()).then_some(options.acc.as_str()),
        subscriptions: options.shown().any() || filter.is_some(),
    };
    let mut document = Connz {
        server_id: String::new(),
        now,
        num_connections: 0,
        total: 0,
        offset,
        limit,
        connections: None,
    };
    // Also asked when only closed connections are shown: an unknown account has its own answer.
    let Some(open) = source.connections(&selection) else { return Ok(document) };
    let open = if options.state.open() { open } else { Vec::new() };
    let closed = if options.state.closed() { source.closed_connections(&selection) } else { Vec::new() };

    document.server_id = source.identity().id;
    document.total = open.len() + closed.len();
    let mut entries = select(open, closed, options, filter);
    sort.apply(&mut entries, now);
    let connections: Vec<_> =
        cut(entries, offset, limit).into_iter().map(|entry| ConnInfo::new(entry, now, options)).collect();
    document.num_connections = connections.len();
    document.connections = Some(connections);
    Ok(document)
}

/// Applies all filters but the account.
fn select(
    open: Vec<Connection>,
    closed: Vec<ClosedConnection>,
    options: &ConnzOptions,
    filter: Option<&str>,
) -> Vec<Entry> {
    let wanted = |connection: &Connection| {
        (options.cid == 0 || connection.cid == options.cid)
            && (options.user.is_empty() || connection.user == options.user)
            && (options.mqtt_client.is_empty() || connection.mqtt_client == options.mqtt_client)
    };
    let interested = |connection: &Connection| {
        filter.is_none_or(|filter| {
            connection
                .subscriptions
                .iter()
                .any(|subscription| subject::collide(filter.as_bytes(), subscription.subject.as_bytes()))
        })
    };
    let mut entries: Vec<Entry> = open
        .into_iter()
        .filter(|connection| wanted(connection) && interested(connection))
        .map(|connection| Entry { connection, ended: None })
        .collect();
    // A cid is looked for among the closed connections only if none that is open has it.
    if options.cid == 0 || entries.is_empty() {
        entries.extend(closed.into_iter().filter(|closed| wanted(&closed.connection)).map(Entry::from));
    }
    entries
}

/// One connection in `/connz` (`ConnInfo` in monitor.go).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "fields are those of source::Connection")]
pub struct ConnInfo {
    pub cid: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub kind: &'static str,
    #[serde(rename = "type", skip_serializing_if = "str::is_empty")]
    pub client_type: &'static str,
    pub ip: String,
    pub port: u16,
    pub start: Timestamp,
    pub last_activity: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<Timestamp>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rtt: String,
    pub uptime: String,
    pub idle: String,
    pub pending_bytes: usize,
    pub in_msgs: u64,
    pub out_msgs: u64,
    pub in_bytes: u64,
    pub out_bytes: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub stalls: u64,
    pub subscriptions: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub lang: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tls_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tls_cipher_suite: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tls_peer_certs: Vec<PeerCertificate>,
    #[serde(skip_serializing_if = "is_default")]
    pub tls_first: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub authorized_user: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub account: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subscriptions_list: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subscriptions_list_detail: Vec<SubscriptionDetail>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub jwt: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub issuer_key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name_tag: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mqtt_client: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
}

impl ConnInfo {
    fn new(entry: Entry, now: Timestamp, options: &ConnzOptions) -> Self {
        let Entry { connection, ended } = entry;
        let until = ended.map_or(now, |(stop, _)| stop);
        let mut info = Self {
            cid: connection.cid,
            kind: connection.kind.kind(),
            client_type: connection.kind.client_type(),
            ip: connection.ip,
            port: connection.port,
            start: connection.start,
            last_activity: connection.last_activity,
            stop: ended.map(|(stop, _)| stop),
            reason: ended.map_or("", |(_, reason)| reason),
            rtt: round_trip(connection.rtt),
            uptime: uptime(until.since(connection.start)),
            idle: uptime(until.since(connection.last_activity)),
            pending_bytes: connection.pending_bytes,
            in_msgs: connection.received.messages,
            out_msgs: connection.sent.messages,
            in_bytes: connection.received.bytes,
            out_bytes: connection.sent.bytes,
            stalls: connection.stalls,
            subscriptions: connection.subscription_count,
            name: connection.name,
            lang: connection.lang,
            version: connection.version,
            mqtt_client: connection.mqtt_client,
            proxy: (!connection.proxy_key.is_empty()).then_some(Proxy { key: connection.proxy_key }),
            ..Self::default()
        };
        if let Some(tls) = connection.tls {
            info.tls_version = tls.version;
            info.tls_cipher_suite = tls.cipher_suite;
            info.tls_first = tls.first;
            if options.auth && ended.is_none() {
                info.tls_peer_certs = tls.peer_certificates;
            }
        }
        match options.shown() {
            SubscriptionsShown::None => {}
            SubscriptionsShown::Subjects => {
                info.subscriptions_list =
                    connection.subscriptions.into_iter().map(|each| each.subject).collect();
            }
            SubscriptionsShown::Detail => {
                // Under a closed connection nats-server names the account too.
                let detail = if ended.is_some() {
                    SubscriptionDetail::from
                } else {
                    SubscriptionDetail::of_connection
                };
                info.subscriptions_list_detail = connection.subscriptions.into_iter().map(detail).collect();
            }
        }
        if options.auth {
            let global = matches!(connection.account.as_str(), "" | GLOBAL_ACCOUNT);
            info.authorized_user = connection.user;
            info.jwt = connection.jwt;
            info.issuer_key = connection.issuer_key;
            info.tags = connection.tags;
            // A closed connection keeps nothing of the global account, an open one shows its tag.
            if !(global && ended.is_some()) {
                info.name_tag = connection.account_tag;
            }
            if !global {
                info.account = connection.account;
            }
        }
        info
    }
}
