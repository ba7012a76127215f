//! `/subsz`: numbers of the subscription indexes and, if asked, the local subscriptions.
//!
//! Owns the document, the sum over accounts and the detailed form of a subscription that `/connz` and `/routez`
//! share. Never matches against the live index: `test` is checked against the listed subscriptions.

use serde::{Deserialize, Serialize};

use crate::json::field::is_default;
use crate::query::{Error, Query, cut, page};
use crate::source::{Source, Subscription};
use crate::time::Timestamp;

/// Subscriptions on a page unless the request says otherwise.
pub const DEFAULT_LIMIT: usize = 1024;

/// What a request for `/subsz` asks; the JSON form is the payload of `$SYS.REQ.SERVER.*.SUBSZ`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SubszOptions {
    /// First subscription of the page.
    pub offset: i64,
    /// Length of the page, [`DEFAULT_LIMIT`] if not positive.
    pub limit: i64,
    /// List subscriptions.
    pub subscriptions: bool,
    /// Only this account.
    pub account: String,
    /// Only subscriptions that a message to this subject would reach.
    pub test: String,
}

impl SubszOptions {
    /// Reads the parameters of the HTTP endpoint.
    pub fn parse(query: &Query<'_>) -> Result<Self, Error> {
        Ok(Self {
            subscriptions: query.boolean("subs")?,
            offset: query.integer("offset")?,
            limit: query.integer("limit")?,
            account: query.text("acc").into_owned(),
            test: query.text("test").into_owned(),
        })
    }
}

/// Numbers of one account's subscription index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexStatistics {
    /// Subscriptions in it.
    pub subscriptions: u64,
    /// Subjects in its match cache; plans here.
    pub cached: u64,
    /// Subscriptions ever made.
    pub inserts: u64,
    /// Subscriptions ever ended.
    pub removes: u64,
    /// Matches asked for.
    pub matches: u64,
    /// Those answered by the cache.
    pub cache_hits: u64,
    /// Most receivers of a cached subject.
    pub fanout_max: u64,
    /// Receivers of all cached subjects together.
    pub fanout_sum: u64,
    /// Cached subjects that `fanout_sum` was taken over.
    pub fanout_subjects: u64,
}

/// Several indexes together (`SublistStats` in sublist.go).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct IndexSummary {
    /// Subscriptions.
    pub num_subscriptions: u64,
    /// Cached subjects.
    pub num_cache: u64,
    /// Subscriptions ever made.
    pub num_inserts: u64,
    /// Subscriptions ever ended.
    pub num_removes: u64,
    /// Matches asked for.
    pub num_matches: u64,
    /// Part of the matches that the cache answered, 0 to 1.
    pub cache_hit_rate: f64,
    /// Most receivers of a cached subject.
    pub max_fanout: u64,
    /// Mean receivers of a cached subject.
    pub avg_fanout: f64,
}

impl IndexSummary {
    /// Adds up the indexes of all accounts.
    pub fn new(indexes: &[IndexStatistics]) -> Self {
        let sum = |of: fn(&IndexStatistics) -> u64| indexes.iter().map(of).sum::<u64>();
        let matches = sum(|index| index.matches);
        Self {
            num_subscriptions: sum(|index| index.subscriptions),
            num_cache: sum(|index| index.cached),
            num_inserts: sum(|index| index.inserts),
            num_removes: sum(|index| index.removes),
            num_matches: matches,
            cache_hit_rate: ratio(sum(|index| index.cache_hits), matches),
            max_fanout: indexes.iter().map(|index| index.fanout_max).max().unwrap_or(0),
            avg_fanout: ratio(sum(|index| index.fanout_sum), sum(|index| index.fanout_subjects)),
        }
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The document of `/subsz` (`Subsz` in monitor.go).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Subsz {
    /// Id of the server.
    pub server_id: String,
    /// When the document was made.
    pub now: Timestamp,
    /// All indexes together.
    #[serde(flatten)]
    pub statistics: IndexSummary,
    /// Subscriptions that were found, 0 if none were asked for.
    pub total: usize,
    /// Start of the page.
    pub offset: usize,
    /// Length of the page.
    pub limit: usize,
    /// The page.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subscriptions_list: Vec<SubscriptionDetail>,
}

/// Answers `/subsz`.
pub fn document(source: &dyn Source, options: &SubszOptions) -> Result<Subsz, Error> {
    let (offset, limit) = page(options.offset, options.limit, DEFAULT_LIMIT);
    let test = options.test.as_bytes();
    if !test.is_empty() && !subject::is_valid_publish(test) {
        return Err(Error::TestSubject(options.test.clone()));
    }
    let account = (!options.account.is_empty()).then_some(options.account.as_str());
    let mut found = Vec::new();
    if options.subscriptions {
        found = source.subscriptions(account);
        if !test.is_empty() {
            found.retain(|subscription| subject::matches(subscription.subject.as_bytes(), test));
        }
    }
    Ok(Subsz {
        server_id: source.identity().id,
        now: source.now(),
        statistics: IndexSummary::new(&source.index_statistics(account)),
        total: found.len(),
        offset,
        limit,
        subscriptions_list: cut(found, offset, limit).into_iter().map(SubscriptionDetail::from).collect(),
    })
}

/// One subscription in detail (`SubDetail` in monitor.go).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SubscriptionDetail {
    /// Account; left out where the connection already says it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub account: String,
    /// Name tag of the account.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub account_tag: String,
    /// Subject, maybe with wildcards.
    pub subject: String,
    /// Queue group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub qgroup: String,
    /// Id that the client chose.
    pub sid: String,
    /// Messages delivered.
    pub msgs: u64,
    /// Messages after which it ends.
    #[serde(skip_serializing_if = "is_default")]
    pub max: u64,
    /// Connection that made it.
    pub cid: u64,
}

impl From<Subscription> for SubscriptionDetail {
    fn from(subscription: Subscription) -> Self {
        Self {
            account: subscription.account,
            account_tag: subscription.account_tag,
            subject: subscription.subject,
            qgroup: subscription.queue,
            sid: subscription.sid,
            msgs: subscription.delivered,
            max: subscription.delivered_max,
            cid: subscription.cid,
        }
    }
}

impl SubscriptionDetail {
    /// The form under a connection, which leaves out the account.
    pub(crate) fn of_connection(subscription: Subscription) -> Self {
        Self { account: String::new(), account_tag: String::new(), ..Self::from(subscription) }
    }
}
