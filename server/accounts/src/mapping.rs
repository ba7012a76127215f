//! An account's subject mappings: weighted, per cluster, applied to what its clients publish.
//!
//! Owns which rule applies and how its destinations share the traffic. Never draws the random number that
//! picks one, so that a plan can keep the choice open and draw for each message.

use crate::{Error, MappingError};
use subject::{Transform, Trie, is_valid, transform};

/// One rule as configuration or a JWT writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MappingSource {
    /// Filter of the subjects it applies to.
    pub source: String,
    /// Where they go.
    pub destinations: Vec<DestinationSource>,
}

/// One destination of a [`MappingSource`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DestinationSource {
    /// A transform of the source (ADR-30).
    pub subject: String,
    /// Its share, 0 to 100.
    pub weight_percent: u8,
    /// Use it only in the cluster of this name.
    pub cluster: Option<String>,
}

/// All rules of an account, for one cluster.
#[derive(Debug)]
pub struct Mappings {
    trie: Trie,
    /// By filter id: rules are never removed, so ids follow the order of insertion.
    list: Vec<Mapping>,
}

/// One compiled rule.
#[derive(Debug)]
pub struct Mapping {
    destinations: Vec<Destination>,
}

/// One compiled destination.
#[derive(Debug)]
pub struct Destination {
    transform: Transform,
    below_percent: u8,
}

impl Default for Mappings {
    fn default() -> Self {
        Mappings { trie: Trie::new(0), list: Vec::new() }
    }
}

impl Mappings {
    /// Compiles rules for the cluster named `cluster` (empty for none). A rule with a source that came before
    /// replaces the earlier one.
    ///
    /// # Errors
    /// [`Error::Mapping`], for the first rule that is refused.
    pub fn new(sources: &[MappingSource], cluster: &str, account: &str) -> Result<Mappings, Error> {
        let mut mappings = Mappings::default();
        for source in sources {
            let mapping = Mapping::new(source, cluster).map_err(|reason| Error::Mapping {
                account: account.into(),
                source_subject: source.source.clone(),
                reason,
            })?;
            let (id, new) = mappings.trie.insert(source.source.as_bytes());
            match mappings.list.get_mut(id.index()).filter(|_| !new) {
                Some(place) => *place = mapping,
                None => mappings.list.push(mapping),
            }
        }
        Ok(mappings)
    }

    /// Whether there is no rule at all.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All rules, in the order written.
    pub fn rules(&self) -> impl Iterator<Item = &Mapping> {
        self.list.iter()
    }

    /// The rule for `subject`: the one whose source is this very subject, or else the first written that
    /// matches.
    pub fn find(&self, subject: &[u8]) -> Option<&Mapping> {
        if self.list.is_empty() {
            return None;
        }
        let mut ids = Vec::new();
        self.trie.matches(subject, self.trie.hash(subject), &mut ids);
        let id = self.trie.find(subject).or_else(|| ids.into_iter().min())?;
        self.list.get(id.index())
    }
}

impl Mapping {
    fn new(source: &MappingSource, cluster: &str) -> Result<Mapping, MappingError> {
        if !is_valid(source.source.as_bytes()) {
            return Err(MappingError::BadSubject);
        }
        check(source)?;
        let is_here = |destination: &&DestinationSource| destination.cluster.as_deref() == Some(cluster);
        let for_cluster = source.destinations.iter().any(|destination| is_here(&destination));
        let chosen = source.destinations.iter().filter(|destination| match for_cluster {
            true => is_here(destination),
            false => destination.cluster.is_none(),
        });
        let mut destinations = Vec::new();
        for destination in chosen {
            let transform = Transform::new_mapping(&source.source, &destination.subject)?;
            destinations.push(Destination { transform, below_percent: destination.weight_percent });
        }
        // What is not given away stays with the source, unless the source is given a share itself: whoever
        // writes that wants loss.
        let total: u8 = destinations.iter().map(|destination| destination.below_percent).sum();
        let has_source = source.destinations.iter().any(|destination| destination.subject == source.source);
        if total != 100 && !has_source {
            let transform = Transform::new(&source.source, &transform::tokenize(&source.source))?;
            destinations.push(Destination { transform, below_percent: 100 - total });
        }
        destinations.sort_by_key(|destination| destination.below_percent);
        let mut below = 0;
        for destination in &mut destinations {
            below += destination.below_percent;
            destination.below_percent = below;
        }
        Ok(Mapping { destinations })
    }

    /// Whether the destination depends on a drawn number: [`Mapping::choose`] for each message then.
    pub fn is_choice(&self) -> bool {
        !matches!(&self.destinations[..], [only] if only.below_percent == 100)
    }

    /// The transform for a uniformly drawn `percent` of 0 to 99. `None` loses the message: go on as if nobody
    /// were interested in it.
    pub fn choose(&self, percent: u8) -> Option<&Transform> {
        self.destinations
            .iter()
            .find(|destination| percent < destination.below_percent)
            .map(|destination| &destination.transform)
    }

    /// All destinations, with the drawn number they end below, ascending.
    pub fn destinations(&self) -> impl Iterator<Item = (&Transform, u8)> {
        self.destinations.iter().map(|destination| (&destination.transform, destination.below_percent))
    }
}

/// The checks that concern all destinations, also those of other clusters.
fn check(source: &MappingSource) -> Result<(), MappingError> {
    let mut totals: Vec<(Option<&str>, u32)> = Vec::new();
    for (index, destination) in source.destinations.iter().enumerate() {
        if source.destinations[..index].iter().any(|other| other.subject == destination.subject) {
            return Err(MappingError::Duplicate(destination.subject.clone()));
        }
        if destination.weight_percent > 100 {
            return Err(MappingError::Weight);
        }
        let cluster = destination.cluster.as_deref();
        let at = totals.iter().position(|(name, _)| *name == cluster).unwrap_or_else(|| {
            totals.push((cluster, 0));
            totals.len() - 1
        });
        totals[at].1 += u32::from(destination.weight_percent);
        if totals[at].1 > 100 {
            return Err(MappingError::TotalWeight);
        }
        Transform::new_mapping(&source.source, &destination.subject)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(subject: &str, weight_percent: u8, cluster: Option<&str>) -> DestinationSource {
        DestinationSource { subject: subject.into(), weight_percent, cluster: cluster.map(Into::into) }
    }

    fn compiled(
        source: &str,
        destinations: Vec<DestinationSource>,
        cluster: &str,
    ) -> Result<Mappings, Error> {
        Mappings::new(&[MappingSource { source: source.into(), destinations }], cluster, "A")
    }

    /// The share of a hundred draws that each result gets.
    fn shares(mappings: &Mappings, subject: &str) -> Vec<(String, usize)> {
        let mut shares: Vec<(String, usize)> = Vec::new();
        let mapping = mappings.find(subject.as_bytes()).unwrap();
        for percent in 0..100 {
            let mut out = vec![];
            if let Some(transform) = mapping.choose(percent) {
                assert!(transform.apply(subject.as_bytes(), &mut || 0, &mut out));
            }
            let text = String::from_utf8(out).unwrap();
            match shares.iter_mut().find(|(other, _)| *other == text) {
                Some((_, count)) => *count += 1,
                None => shares.push((text, 1)),
            }
        }
        shares.sort();
        shares
    }

    fn share(text: &str, count: usize) -> (String, usize) {
        (text.into(), count)
    }

    #[test]
    fn weights_share_the_traffic_and_the_source_keeps_the_rest() {
        let mappings = compiled("foo.*", vec![to("bar.$1", 20, None), to("baz.$1", 30, None)], "").unwrap();
        assert_eq!(shares(&mappings, "foo.x"), [share("bar.x", 20), share("baz.x", 30), share("foo.x", 50)]);
        assert!(mappings.find(b"foo.x").unwrap().is_choice());
        assert!(mappings.find(b"other").is_none());
        let whole = compiled("a", vec![to("b", 100, None)], "").unwrap();
        assert!(!whole.find(b"a").unwrap().is_choice());
    }

    #[test]
    fn a_source_with_a_share_of_its_own_loses_the_rest() {
        let mappings = compiled("foo", vec![to("foo", 75, None)], "").unwrap();
        assert_eq!(shares(&mappings, "foo"), [share("", 25), share("foo", 75)]);
    }

    #[test]
    fn clusters_have_rules_of_their_own() {
        let destinations = || vec![to("a", 100, None), to("b", 60, Some("east"))];
        let here = compiled("s", destinations(), "east").unwrap();
        assert_eq!(shares(&here, "s"), [share("b", 60), share("s", 40)]);
        let elsewhere = compiled("s", destinations(), "west").unwrap();
        assert_eq!(shares(&elsewhere, "s"), [share("a", 100)]);
    }

    #[test]
    fn the_exact_source_goes_before_the_first_that_matches() {
        let source = |source: &str, subject: &str| MappingSource {
            source: source.into(),
            destinations: vec![to(subject, 100, None)],
        };
        let sources = [
            source("a.*", "first"),
            source("a.>", "second.>"),
            source("a.b", "exact"),
            source("a.b", "last"),
        ];
        let mappings = Mappings::new(&sources[..], "", "A").unwrap();
        assert_eq!(shares(&mappings, "a.b"), [share("last", 100)]);
        assert_eq!(shares(&mappings, "a.c"), [share("first", 100)]);
        assert_eq!(shares(&mappings, "a.c.d"), [share("second.c.d", 100)]);
    }

    #[test]
    fn bad_rules_are_refused_with_their_reason() {
        let reason = |destinations| match compiled("foo.*", destinations, "").unwrap_err() {
            Error::Mapping { reason, .. } => reason,
            other => panic!("{other}"),
        };
        assert_eq!(reason(vec![to("a.$1", 101, None)]), MappingError::Weight);
        assert_eq!(reason(vec![to("a.$1", 60, None), to("b.$1", 60, None)]), MappingError::TotalWeight);
        assert_eq!(
            reason(vec![to("a.$1", 6, None), to("a.$1", 6, None)]),
            MappingError::Duplicate("a.$1".into())
        );
        assert!(matches!(reason(vec![to("a.$2", 6, None)]), MappingError::Transform(_)));
        assert!(matches!(reason(vec![to("a.$2", 6, Some("elsewhere"))]), MappingError::Transform(_)));
        assert!(compiled("foo..bar", vec![], "").is_err());
    }
}
