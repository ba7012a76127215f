//! Requests to the system account: `$SYS.REQ.SERVER.*`, `$SYS.REQ.ACCOUNT.*` and their envelopes.
//!
//! Owns the subjects that a server listens to, the filters by which a request picks servers, and the JSON of the
//! answers. What changes the server (reload, kick) is handed back as a [`Call`] for the engine to carry out.
//!
//! Never sends and never subscribes.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::accountz::{AccountStatzOptions, AccountzOptions};
use crate::connz::ConnzOptions;
use crate::events::{ServerIdentity, ServerInfo, Statistics};
use crate::healthz::HealthzOptions;
use crate::ipqueuesz::IpqueueszOptions;
use crate::query::Error;
use crate::routez::RoutezOptions;
use crate::source::Source;
use crate::subsz::SubszOptions;
use crate::unbuilt::JszOptions;
use crate::varz::Absent;
use crate::{accountz, connz, healthz, ipqueuesz, json, routez, subsz, unbuilt, varz};

/// What a request asks of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call<'a> {
    /// A document about the server.
    Server(Service),
    /// A document about an account.
    Account(AccountService, &'a str),
    /// The numbers of all accounts (`$SYS.REQ.ACCOUNT.PING.STATZ`).
    AccountsPing,
    /// The engine answers these.
    Act(Action<'a>),
}

/// Documents about the server, by the last word of the subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each name is its word")]
pub enum Service {
    Idz,
    Statsz,
    Varz,
    Subsz,
    Connz,
    Routez,
    Gatewayz,
    Leafz,
    Accountz,
    Jsz,
    Healthz,
    Profilez,
    Expvarz,
    Ipqueuesz,
    Raftz,
}

/// Documents about one account, by the last word of the subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each name is its word")]
pub enum AccountService {
    Subsz,
    Connz,
    Leafz,
    Jsz,
    Info,
    Statz,
}

/// Requests that need more than a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// Read the configuration again; the payload is a [`ServerFilter`].
    Reload,
    /// Close the connection in the payload ([`ClientRequest`]). A malformed payload gets no answer; an unknown
    /// connection gets `no such client or leafnode id`.
    Kick,
    /// Tell the connection in the payload ([`ClientRequest`]) to go elsewhere. A malformed payload gets no answer;
    /// an unknown connection gets `no such client id`.
    LameDuck,
    /// Publish [`AccountConnections`](crate::events::AccountConnections) of this account to the reply subject, if
    /// it has connections here. Another server asks.
    Connections(&'a str),
    /// Say how many subscriptions a subject reaches here: payload [`SubscriptionCountRequest`], answer a number.
    /// Another server asks.
    SubscriptionCount,
    /// Say how many subscriptions a subject reaches in the whole cluster: payload `subject [queue]`, answer a number.
    Subscribers,
    /// Tell the user of this account who it is and what it may do ([`UserInfo`]).
    UserInfo(&'a str),
}

const SERVICES: [(&str, Service); 15] = [
    ("IDZ", Service::Idz),
    ("STATSZ", Service::Statsz),
    ("VARZ", Service::Varz),
    ("SUBSZ", Service::Subsz),
    ("CONNZ", Service::Connz),
    ("ROUTEZ", Service::Routez),
    ("GATEWAYZ", Service::Gatewayz),
    ("LEAFZ", Service::Leafz),
    ("ACCOUNTZ", Service::Accountz),
    ("JSZ", Service::Jsz),
    ("HEALTHZ", Service::Healthz),
    ("PROFILEZ", Service::Profilez),
    ("EXPVARZ", Service::Expvarz),
    ("IPQUEUESZ", Service::Ipqueuesz),
    ("RAFTZ", Service::Raftz),
];

const ACCOUNT_SERVICES: [(&str, AccountService); 6] = [
    ("SUBSZ", AccountService::Subsz),
    ("CONNZ", AccountService::Connz),
    ("LEAFZ", AccountService::Leafz),
    ("JSZ", AccountService::Jsz),
    ("INFO", AccountService::Info),
    ("STATZ", AccountService::Statz),
];

/// Subjects that the server subscribes to in the system account to receive every [`Call`].
pub fn subjects(server_id: &str) -> Vec<String> {
    let mut subjects: Vec<String> = vec![
        "$SYS.REQ.SERVER.PING".into(),
        "$SYS.REQ.ACCOUNT.PING.STATZ".into(),
        "$SYS.REQ.ACCOUNT.NSUBS".into(),
        "$SYS.REQ.ACCOUNT.*.CONNS".into(),
        "$SYS.REQ.USER.*.INFO".into(),
        "$SYS.DEBUG.SUBSCRIBERS".into(),
    ];
    for (word, _) in SERVICES {
        subjects.push(format!("$SYS.REQ.SERVER.{server_id}.{word}"));
        subjects.push(format!("$SYS.REQ.SERVER.PING.{word}"));
    }
    subjects.extend(ACCOUNT_SERVICES.map(|(word, _)| format!("$SYS.REQ.ACCOUNT.*.{word}")));
    subjects.extend(["RELOAD", "KICK", "LDM"].map(|word| format!("$SYS.REQ.SERVER.{server_id}.{word}")));
    subjects
}

impl<'a> Call<'a> {
    /// What a message on `subject` asks of the server `server_id`; `None` if it is none of [`subjects`].
    pub fn parse(subject: &'a str, server_id: &str) -> Option<Self> {
        if subject == "$SYS.DEBUG.SUBSCRIBERS" {
            return Some(Self::Act(Action::Subscribers));
        }
        let mut tokens = subject.strip_prefix("$SYS.REQ.")?.split('.');
        let call = match (tokens.next()?, tokens.next()?, tokens.next()) {
            ("SERVER", "PING", None) => Self::Server(Service::Statsz),
            ("SERVER", "PING", Some(word)) => Self::Server(find(&SERVICES, word)?),
            ("SERVER", id, Some(word)) if id == server_id => match word {
                "RELOAD" => Self::Act(Action::Reload),
                "KICK" => Self::Act(Action::Kick),
                "LDM" => Self::Act(Action::LameDuck),
                word => Self::Server(find(&SERVICES, word)?),
            },
            ("ACCOUNT", "NSUBS", None) => Self::Act(Action::SubscriptionCount),
            ("ACCOUNT", "PING", Some("STATZ")) => Self::AccountsPing,
            ("ACCOUNT", account, Some("CONNS")) => Self::Act(Action::Connections(account)),
            ("ACCOUNT", account, Some(word)) => Self::Account(find(&ACCOUNT_SERVICES, word)?, account),
            ("USER", account, Some("INFO")) => Self::Act(Action::UserInfo(account)),
            _ => return None,
        };
        tokens.next().is_none().then_some(call)
    }
}

fn find<T: Copy>(words: &[(&str, T)], word: &str) -> Option<T> {
    words.iter().find(|(name, _)| *name == word).map(|(_, value)| *value)
}

/// Picks the servers that answer (`EventFilterOptions` in events.go). Empty fields pick all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ServerFilter {
    /// Name of the server, or a part of it.
    pub server_name: String,
    /// Name of the cluster, or a part of it.
    pub cluster: String,
    /// Host, or a part of it.
    pub host: String,
    /// Names must be equal, not contain.
    pub exact_match: bool,
    /// The server must have all of these tags.
    pub tags: Vec<String>,
    /// JetStream domain.
    pub domain: String,
}

impl ServerFilter {
    /// True if the server answers.
    pub fn picks(&self, server: &ServerIdentity) -> bool {
        let fits = |wanted: &String, actual: &String| {
            wanted.is_empty()
                || if self.exact_match { wanted == actual } else { actual.contains(wanted.as_str()) }
        };
        let tagged = |wanted: &String| server.tags.contains(&wanted.trim().to_lowercase());
        fits(&self.server_name, &server.name)
            && fits(&self.host, &server.host)
            && fits(&self.cluster, &server.cluster)
            && self.tags.iter().all(tagged)
            && (self.domain.is_empty() || self.domain == server.domain)
    }
}

/// Payload of KICK and LDM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ClientRequest {
    /// Number of the connection.
    pub cid: u64,
}

/// Payload of `$SYS.REQ.ACCOUNT.NSUBS`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SubscriptionCountRequest {
    /// Account.
    pub acc: String,
    /// Subject, maybe with wildcards.
    pub subject: String,
    /// Base64 of a queue group, empty for all subscriptions (a byte slice in Go).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub queue: String,
}

/// Answer to `$SYS.REQ.USER.INFO` (`UserInfo` in events.go).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct UserInfo {
    /// User, never a password.
    pub user: String,
    /// Account.
    pub account: String,
    /// Name tag of the account.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub account_name: String,
    /// Name tag of the user.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_name: String,
    /// Permissions, if restricted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Permissions>,
    /// Time until the login ends.
    #[serde(
        serialize_with = "json::field::nanoseconds",
        skip_serializing_if = "std::time::Duration::is_zero"
    )]
    pub expires: std::time::Duration,
}

/// Permissions of a user (`Permissions` in auth.go).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Permissions {
    /// May be published to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<routez::SubjectPermission>,
    /// May be subscribed to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<routez::SubjectPermission>,
    /// Replies to received requests are allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub responses: Option<ResponsePermission>,
}

/// How many replies are allowed, and for how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ResponsePermission {
    /// Replies to one request.
    pub max: i64,
    /// Time after the request in nanoseconds.
    pub ttl: i64,
}

/// Why a request failed (`ApiError` in jetstream_errors.go).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApiError {
    /// 400 for a malformed request, 500 for one that cannot be answered.
    pub code: u16,
    /// Text for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
}

impl ApiError {
    fn bad_request(error: &serde_json::Error) -> Self {
        Self { code: 400, description: error.to_string() }
    }

    /// The request was understood but failed.
    pub fn failed(description: impl Into<String>) -> Self {
        Self { code: 500, description: description.into() }
    }
}

/// The envelope of an answer (`ServerAPIResponse` in events.go).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Envelope<T: Serialize> {
    /// Who answers.
    pub server: ServerInfo,
    /// The document; `null` if it could not be made, absent if there is none to make.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Option<T>>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
}

/// Renders the answer to an [`Action`]: what was done, nothing (`None::<()>`), or why it failed.
pub fn envelope<T: Serialize>(
    source: &dyn Source,
    sequence: u64,
    result: Result<Option<T>, ApiError>,
) -> Vec<u8> {
    let (data, error) = match result {
        Ok(data) => (data.map(Some), None),
        Err(error) => (None, Some(error)),
    };
    json::compact(&Envelope { server: stamp(source, sequence), data, error })
}

fn stamp(source: &dyn Source, sequence: u64) -> ServerInfo {
    ServerInfo::new(source.identity(), sequence, source.now())
}

/// Reads a payload; empty and `null` stand for the defaults.
pub fn decode<T: DeserializeOwned + Default>(payload: &[u8]) -> Result<T, ApiError> {
    if payload.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice::<Option<T>>(payload)
        .map(Option::unwrap_or_default)
        .map_err(|error| ApiError::bad_request(&error))
}

/// Answers a request for a document. `sequence` is the number of the message among those that this server sends;
/// it is used only if there is an answer.
///
/// `None` means that this server does not answer: the filter in the payload picks others, only a leader may answer,
/// or `call` is an [`Action`]. A request without reply subject gets no answer either, except STATSZ, whose answer
/// then goes to [`subjects::statistics`](crate::events::subjects::statistics). Go's `Accept-Encoding` header is not
/// honoured: answers are never compressed.
pub fn answer(source: &dyn Source, call: Call<'_>, payload: &[u8], sequence: u64) -> Option<Vec<u8>> {
    if call == Call::Server(Service::Idz) {
        let ServerIdentity { name, host, id, .. } = source.identity();
        return Some(json::compact(&Identity { name, host, id }));
    }
    match decode::<ServerFilter>(payload) {
        Ok(filter) if !filter.picks(&source.identity()) => return None,
        Ok(_) => {}
        Err(error) => return Some(envelope::<()>(source, sequence, Err(error))),
    }
    let request = Request { source, payload, sequence };
    match call {
        Call::Server(service) => request.server(service),
        Call::Account(service, account) => request.account(service, account),
        Call::AccountsPing => request.account_statistics(Vec::new()),
        Call::Act(_) => None,
    }
}

/// Answer to IDZ (`ServerID` in events.go), the one without envelope.
#[derive(Serialize)]
struct Identity {
    name: String,
    host: String,
    id: String,
}

/// Answer to EXPVARZ; there are no Go variables to show.
#[derive(Serialize)]
struct Expvarz {
    memstats: Option<()>,
    cmdline: Option<()>,
}

/// Answer to PROFILEZ.
#[derive(Serialize)]
struct Profilez {
    profile: Option<()>,
    error: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ProfilezOptions {
    name: String,
}

struct Request<'a> {
    source: &'a dyn Source,
    payload: &'a [u8],
    sequence: u64,
}

impl Request<'_> {
    fn server(&self, service: Service) -> Option<Vec<u8>> {
        let source = self.source;
        match service {
            Service::Idz => None,
            Service::Statsz => {
                let message = Statistics::new(stamp(source, self.sequence), source.statistics());
                Some(json::compact(&message))
            }
            Service::Varz => self.reply(|_: ServerFilter| Ok(varz::document(source))),
            Service::Subsz => self.reply(|options: SubszOptions| subsz::document(source, &options)),
            Service::Connz => self.reply(|options: ConnzOptions| connz::document(source, &options)),
            Service::Routez => self.reply(|options: RoutezOptions| Ok(routez::document(source, options))),
            Service::Gatewayz => self.reply(|_: ServerFilter| Ok(unbuilt::gatewayz(source))),
            Service::Leafz => self.reply(|_: ServerFilter| Ok(unbuilt::leafz(source))),
            Service::Accountz => self.reply(|options: AccountzOptions| accountz::document(source, &options)),
            Service::Jsz => self.reply(|options: JszOptions| unbuilt::jsz(source, options)),
            Service::Healthz => self.reply(|options: HealthzOptions| Ok(healthz::document(source, &options))),
            Service::Profilez => self.reply(|options: ProfilezOptions| {
                let error = match options.name.as_str() {
                    "" => "Profile name not specified".to_owned(),
                    name => format!("Profile {name:?} not found"),
                };
                Ok(Profilez { profile: None, error })
            }),
            Service::Expvarz => self.reply(|_: ServerFilter| Ok(Expvarz { memstats: None, cmdline: None })),
            Service::Ipqueuesz => {
                self.reply(|options: IpqueueszOptions| Ok(ipqueuesz::document(source, &options)))
            }
            Service::Raftz => self.reply(|_: ServerFilter| Ok(Absent {})),
        }
    }

    fn account(&self, service: AccountService, account: &str) -> Option<Vec<u8>> {
        let source = self.source;
        match service {
            AccountService::Subsz => self.reply(|mut options: SubszOptions| {
                options.subscriptions = true;
                account.clone_into(&mut options.account);
                subsz::document(source, &options)
            }),
            AccountService::Connz => self.reply(|mut options: ConnzOptions| {
                account.clone_into(&mut options.acc);
                connz::document(source, &options)
            }),
            AccountService::Leafz => self.reply(|_: ServerFilter| Ok(unbuilt::leafz(source))),
            AccountService::Jsz => self.reply(|_: ServerFilter| Err::<(), _>(Error::NoJetStream)),
            AccountService::Info => self.reply(|_: ServerFilter| accountz::detail(source, account)),
            AccountService::Statz => self.account_statistics(vec![account.to_owned()]),
        }
    }

    /// Servers without a connection of the accounts keep silent unless asked for unused accounts.
    fn account_statistics(&self, accounts: Vec<String>) -> Option<Vec<u8>> {
        let mut options: AccountStatzOptions = match decode(self.payload) {
            Ok(options) => options,
            Err(error) => return Some(envelope::<()>(self.source, self.sequence, Err(error))),
        };
        if !accounts.is_empty() {
            options.accounts = accounts;
        }
        let document = accountz::statistics(self.source, &options);
        if document.account_statz.is_empty() && !options.include_unused {
            return None;
        }
        Some(envelope(self.source, self.sequence, Ok(Some(document))))
    }

    /// Decodes the options, makes the document, wraps it.
    fn reply<O, D>(&self, document: impl FnOnce(O) -> Result<D, Error>) -> Option<Vec<u8>>
    where
        O: DeserializeOwned + Default,
        D: Serialize,
    {
        let (data, error) = match decode(self.payload) {
            Ok(options) => match document(options) {
                Ok(document) => (Some(Some(document)), None),
                Err(Error::NotLeader) => return None,
                // A typed nil pointer in Go, which `omitempty` does not leave out.
                Err(error) => (Some(None), Some(ApiError::failed(error.to_string()))),
            },
            Err(error) => (None, Some(error)),
        };
        let server = stamp(self.source, self.sequence);
        Some(json::compact(&Envelope { server, data, error }))
    }
}
